//! `~` in paths that the shell does not expand.

use crate::idx_folder::IdxFolder;
use crate::support::{Outcome, Sandbox};

#[test]
fn a_leading_tilde_is_expanded_in_every_path() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "home/tiny");
    sandbox.write("tilde.toml", "dataset = '~/tiny'\n[train]\nbatch_size = 9\nmax_steps = 1\n");
    let train = "train --batch-size 9 --max-steps 1";
    for words in [
        format!("{train} --dataset ~/tiny --run-dir ~/runs/a"),
        format!("{train} --dataset=~/tiny --run-dir=~/runs/b"),
        "train --config tilde.toml --run-dir ~/runs/c".to_owned(),
        "train --config tilde.toml --init ~/runs/a/model.safetensors --run-dir ~/runs/d".to_owned(),
        "eval ~/runs/a".to_owned(),
        "export ~/runs/a --layout notebook -o ~/a.safetensors".to_owned(),
        "compare ~/runs/a ~/runs/b -o ~/compare.html".to_owned(),
        "verify ~/runs/a --files-only".to_owned(),
    ] {
        sandbox.run(&words).succeeded();
    }
    for name in ["runs/a", "runs/b", "runs/c", "runs/d", "a.safetensors", "compare.html"] {
        assert!(sandbox.path("home").join(name).exists(), "{name}");
    }
    assert!(!sandbox.path("~").exists());
}

#[test]
fn a_tilde_is_expanded_in_the_data_folder() {
    let sandbox = Sandbox::new();
    for (words, variable) in [
        ("fetch mnist --data-dir ~/data", ""),
        ("fetch mnist --data-dir=~/data", ""),
        ("fetch mnist", "~/data"),
    ] {
        // There is no network, so the message names the download's folder.
        let output = sandbox.command(words).env("VIT_DATA", variable).output().unwrap();
        assert_eq!(Outcome::of(&output).code, Some(3), "{words}");
        assert!(sandbox.path("home/data/mnist").is_dir(), "{words} {variable}");
        std::fs::remove_dir_all(sandbox.path("home/data")).unwrap();
    }
    assert!(!sandbox.path("~").exists());
}

#[test]
fn another_users_home_is_rejected() {
    let sandbox = Sandbox::new();
    sandbox.write("tilde.toml", "dataset = '~you/tiny'\n");
    for words in [
        "train --dataset ~you/tiny",
        "train --dataset digits --run-dir ~you/run",
        "train --config tilde.toml",
        "eval ~you/run",
        "fetch mnist --data-dir ~you/data",
    ] {
        let refused = sandbox.run(words);
        assert_eq!(refused.code, Some(2), "{words}: {}", refused.stderr);
        assert!(refused.stderr.contains("cannot expand ~you/"), "{words}: {}", refused.stderr);
    }
    let refused = sandbox.command("fetch mnist").env("VIT_DATA", "~you/data").output().unwrap();
    let refused = Outcome::of(&refused);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot expand ~you/data"), "{}", refused.stderr);
    assert!(!sandbox.path("runs").exists());
}
