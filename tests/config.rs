//! `vit config`: prints the settings of a run in advance.

use serde_json::Value;

use crate::support::Sandbox;

const FLAGS: &str =
    "--dataset digits --preset notebook --lr 0.01 --schedule cosine --warmup 5 --max-steps 1";

#[test]
fn config_prints_saved_settings() {
    let sandbox = Sandbox::new();
    let printed = sandbox.run(&format!("config {FLAGS}")).succeeded();
    assert_eq!(printed.stderr, "");
    assert!(sandbox.entries().is_empty());
    sandbox.run(&format!("train {FLAGS} --run-dir run")).succeeded();
    assert_eq!(printed.stdout.as_bytes(), sandbox.read("run/config.toml"));
}

#[test]
fn config_output_round_trips() {
    let sandbox = Sandbox::new();
    for flags in ["", FLAGS, "--preset vit-ti16 --dropout 0.1", "--val-split 0.1 --patience 2"] {
        let first = sandbox.run(&format!("config {flags}")).succeeded().stdout;
        sandbox.write("first.toml", &first);
        assert_eq!(sandbox.run("config --config first.toml").succeeded().stdout, first);
    }
}

#[test]
fn json_has_the_same_settings() {
    let sandbox = Sandbox::new();
    let json = sandbox.run(&format!("config --json {FLAGS}")).succeeded().json();
    assert_eq!(json["train"]["optimizer"]["lr"], 0.01);
    assert_eq!(json["preset"], "notebook");
    let text = sandbox.run(&format!("config {FLAGS}")).succeeded().stdout;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for key in keys(&json["train"]) {
        assert!(text.contains(&key), "{key} in {text}");
    }
}

/// A pass of several shards needs two images in each.
#[test]
fn shards_follow_the_batch_size_unless_they_are_set() {
    let sandbox = Sandbox::new();
    sandbox.write("set.toml", "[train]\nshards = 16\n");
    sandbox.write("batch.toml", "[train]\nbatch_size = 24\n");
    for (words, want) in [
        ("", 16),
        ("--batch-size 512", 16),
        ("--batch-size 31", 8),
        ("--batch-size 1", 1),
        ("--config batch.toml", 8),
        ("--config batch.toml --batch-size 64", 16),
        ("--config set.toml --batch-size 16", 16),
    ] {
        let text = sandbox.run(&format!("config {words}")).succeeded().stdout;
        assert!(text.contains(&format!("\nshards = {want}\n")), "{words}: {text}");
    }
}

#[test]
fn settings_that_a_run_rejects_are_rejected() {
    let sandbox = Sandbox::new();
    sandbox.refuses(2, "config --lr -1").saying(&["lr", "-1"]);
    sandbox.refuses(2, "config --preset vast").saying(&["vast"]);
    sandbox.write("typo.toml", "[train]\nbatchsize = 3\n");
    let refusal = sandbox.refuses(2, "config --config typo.toml").saying(&["batchsize"]);
    assert!(refusal.hint.contains("batch_size"), "{refusal:?}");
}

#[test]
fn for_a_folder_of_pictures_it_prints_what_a_run_saves() {
    let sandbox = Sandbox::new();
    crate::own_pictures::flowers(&sandbox);
    let flags = format!("--dataset flowers {}", crate::own_pictures::SMALL);
    let printed = sandbox.run(&format!("config {flags}")).succeeded();
    sandbox.run(&format!("train {flags} --run-dir run")).succeeded();
    assert_eq!(printed.stdout.as_bytes(), sandbox.read("run/config.toml"));
    assert!(printed.stdout.contains("classes = 3"), "{}", printed.stdout);
    sandbox.refuses(3, "config --dataset no-such-folder").saying(&["no-such-folder"]);
}
