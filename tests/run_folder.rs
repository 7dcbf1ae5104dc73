//! The files of a run, and repeating the run from them.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::idx_folder::IdxFolder;
use crate::running::Running;
#[cfg(unix)]
use crate::support::Outcome;
use crate::support::{Sandbox, json_lines, timeless};

#[test]
fn a_run_saves_settings_metrics_model_and_figures() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 2 --log-every 1");
    let files = fs::read_dir(sandbox.path("run")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    files.sort();
    let expected = [
        ".lock",
        "checkpoints",
        "config.toml",
        "env.json",
        "metrics.csv",
        "metrics.jsonl",
        "model.safetensors",
        "plots",
        "report.html",
    ];
    assert_eq!(files, expected);
    for figure in ["training-accuracy", "training-loss"] {
        let svg = sandbox.read(&format!("run/plots/{figure}.svg"));
        assert!(svg.starts_with(b"<svg"), "{figure}");
    }
}

#[test]
fn steps_are_recorded_from_each_epochs_start() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    sandbox
        .run("train --dataset tiny --batch-size 9 --epochs 2 --log-every 3 --run-dir run")
        .succeeded();
    let records = json_lines(sandbox.read("run/metrics.jsonl"));
    let places: Vec<Value> = records
        .iter()
        .map(|record| json!([record["kind"], record["epoch"], record["step"]]))
        .collect();
    // 40 images give 4 complete batches of 9 an epoch.
    let expected = [
        json!(["step", 1, 3]),
        json!(["epoch", 1, 4]),
        json!(["step", 2, 7]),
        json!(["epoch", 2, 8]),
    ];
    assert_eq!(places, expected);
    let keys = |record: &Value| record.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&records[0]), ["epoch", "kind", "loss", "lr", "step"]);
    assert_eq!(
        keys(&records[1]),
        [
            "epoch",
            "images_per_second",
            "kind",
            "seconds",
            "step",
            "test_accuracy",
            "test_loss",
            "train_accuracy",
            "train_loss",
            "waiting_seconds"
        ]
    );
}

#[test]
fn a_step_record_is_the_mean_since_the_last() {
    let losses = |log_every| {
        let sandbox = Sandbox::new();
        sandbox.train_digits(&format!("--max-steps 4 --log-every {log_every}"));
        let records = json_lines(sandbox.read("run/metrics.jsonl"));
        records.iter().filter_map(|record| record["loss"].as_f64()).collect::<Vec<_>>()
    };
    let (each, halves) = (losses(1), losses(2));
    assert_eq!((each.len(), halves.len()), (4, 2));
    for (mean, pair) in halves.iter().zip(each.chunks(2)) {
        assert!((mean - (pair[0] + pair[1]) / 2.0).abs() < 1e-12, "{each:?} {halves:?}");
    }
}

#[test]
fn default_directories_have_dataset_preset_and_number() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "data/tiny");
    for (words, folder) in [
        ("--dataset digits", "digits-shallow-1"),
        ("--dataset digits", "digits-shallow-2"),
        ("--dataset digits --preset notebook", "digits-notebook-1"),
        ("--dataset data/tiny --batch-size 10", "tiny-shallow-1"),
    ] {
        sandbox.run(&format!("train --max-steps 1 {words}")).succeeded();
        assert!(sandbox.path("runs").join(folder).is_dir(), "{folder}");
    }
}

#[test]
fn an_existing_directory_is_rejected_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.write("run/notes.txt", "mine");
    // An unavailable dataset: looking for it would be work.
    let refusal = sandbox
        .refuses(2, "train --dataset mnist --run-dir run")
        .saying(&["run directory run already exists"]);
    assert!(refusal.hint.contains("--run-dir"), "{refusal:?}");
    assert_eq!(sandbox.read("run/notes.txt"), b"mine");
    assert!(!sandbox.path("home").exists());
}

#[test]
fn settings_repeat_a_run_bit_for_bit() {
    let sandbox = Sandbox::new();
    sandbox.train_digits(
        "--preset notebook --max-steps 12 --batch-size 50 --lr 0.001 --dropout 0.1 --seed 3 --log-every 5 --no-shuffle",
    );
    sandbox.run("train --config run/config.toml --run-dir again").succeeded();
    assert_eq!(sandbox.read("again/config.toml"), sandbox.read("run/config.toml"));
    assert_eq!(sandbox.read("again/model.safetensors"), sandbox.read("run/model.safetensors"));
    let (first, again) = (sandbox.read("run/metrics.jsonl"), sandbox.read("again/metrics.jsonl"));
    assert_eq!(timeless(&again), timeless(&first));
}

#[test]
fn a_flag_overrides_the_file() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "c.toml",
        "dataset = 'digits'\n[train]\nmax_steps = 3\nseed = 7\n[model]\ndepth = 1\n",
    );
    let result = sandbox.run("train --config c.toml --max-steps 2 --json").succeeded().json();
    assert_eq!((&result["step"], &result["dataset"]), (&json!(2), &json!("digits")));
    let settings = String::from_utf8(sandbox.read("runs/digits-shallow-1/config.toml")).unwrap();
    assert!(settings.contains("seed = 7") && settings.contains("depth = 1"), "{settings}");
}

#[test]
fn a_model_read_during_the_run_is_complete() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --epochs 1000 --save-every 1 --run-dir run";
    let mut training = Running::start(&mut sandbox.command(words));
    let saved = sandbox.path("run/model.safetensors");
    training.wait_until(|| saved.exists());
    let infos: Vec<_> = (0..5).map(|_| sandbox.run("info run --json")).collect();
    training.assert_is_running();
    for info in infos {
        assert_eq!(info.succeeded().json()["parameters"], 40_330);
    }
}

/// An epoch of 10,000 steps takes far longer than the two seconds needed here.
#[test]
fn save_every_seconds_saves_within_an_epoch() {
    let sandbox = Sandbox::new();
    let model = "[model]\ndim = 64\nmlp_dim = 256\ndepth = 12\n";
    sandbox.write("long.toml", format!("dataset = 'digits'\n[train]\nbatch_size = 1\n{model}"));
    let words = "train --config long.toml --log-every 1 --save-every 1s --run-dir run";
    let begun = Instant::now();
    let mut training = Running::start(&mut sandbox.command(words));
    let newest = || sandbox.path("run/checkpoints/last").read_link().ok();
    training.wait_until(|| newest().is_some());
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let first = newest();
    training.wait_until(|| newest() != first);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    training.assert_is_running();
    drop(training);
    let records = json_lines(whole_lines(&sandbox.read("run/metrics.jsonl")));
    assert!(records.iter().all(|record| record["kind"] == "step"), "the epoch ended too soon");
    let parts = sandbox.run("verify run --files-only --json").succeeded().json();
    let parts = parts.as_array().unwrap();
    let parts = parts.iter().map(|part| part["part"].as_str().unwrap());
    assert!(parts.filter(|part| part.starts_with("checkpoints/step-")).count() >= 2);
}

/// Without a line that is still being written.
fn whole_lines(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    &text[..end]
}

/// Also for files that are written elsewhere and renamed, and after a resume.
#[cfg(unix)]
#[test]
fn permissions_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    for (umask, file, folder) in
        [("022", 0o644, 0o755), ("077", 0o600, 0o700), ("002", 0o664, 0o775)]
    {
        let sandbox = Sandbox::new();
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let run = |words: &str| {
            let output = sandbox.script(&[], &script, words).output().unwrap();
            Outcome::of(&output).succeeded();
        };
        run(
            "train --dataset digits --val-split 0.1 --max-steps 8 --save-every 2 --tensorboard --run-dir runs/run",
        );
        fs::remove_dir_all(sandbox.path("runs/run/checkpoints/step-000008")).unwrap();
        run("train --resume runs/run --save-every 1");
        run("compare runs/run -o compared.html");
        let mut files = Vec::new();
        for entry in sandbox.entries() {
            let found = sandbox.path(&entry).symlink_metadata().unwrap();
            let expected = if found.is_dir() { folder } else { file };
            let mode = found.permissions().mode() & 0o7777;
            assert!(found.is_symlink() || mode == expected, "{}: {mode:o}", entry.display());
            files.push(entry.file_name().unwrap().to_str().unwrap().to_owned());
        }
        for name in [
            "runs",
            "model.safetensors",
            "best.safetensors",
            "metrics.jsonl",
            "step-000008",
            "report.html",
        ] {
            assert!(files.iter().any(|file| file == name), "{name} in {files:?}");
        }
    }
}
