//! Links and pipes in place of locks and data: nothing is written through a link, and a pipe without a writer does not
//! block.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::{checkpoints, sandbox, uninterrupted};
use crate::support::{Outcome, Sandbox};

fn make_pipe(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Runs `vit`, which must end soon.
fn soon(sandbox: &Sandbox, words: &str) -> Outcome {
    Outcome::of(&sandbox.command_by("timeout", &["20"], words).output().unwrap())
}

#[test]
fn a_lock_that_is_a_link_or_pipe_is_an_error() {
    let sandbox = sandbox();
    uninterrupted(&sandbox);
    let lock = sandbox.path("whole/.lock");
    let before = checkpoints(&sandbox, "whole");
    for kind in ["symbolic link", "pipe, socket or device"] {
        fs::remove_file(&lock).unwrap();
        match kind {
            "symbolic link" => symlink("../created", &lock).unwrap(),
            _ => make_pipe(&lock),
        }
        for words in ["-q verify whole --files-only", "-q train --resume whole"] {
            let refused = soon(&sandbox, words);
            assert_eq!(refused.code, Some(4), "{words}: {}", refused.stderr);
            assert!(refused.stderr.contains("whole/.lock"), "{words}: {}", refused.stderr);
            assert!(refused.stderr.contains(kind), "{words}: {}", refused.stderr);
        }
        assert!(!sandbox.path("created").exists());
        assert_eq!(checkpoints(&sandbox, "whole"), before);
    }
}

#[test]
fn a_pipe_in_place_of_a_datasets_file_is_an_error() {
    let images = "train-images-idx3-ubyte";
    for (name, words) in [
        (images.to_owned(), "fetch mnist --data-dir data"),
        (format!("{images}.gz"), "fetch mnist --data-dir data"),
        (format!("{images}.gz.part"), "fetch mnist --data-dir data"),
        (".lock".to_owned(), "fetch mnist --data-dir data"),
        // No fallback to digits: the file exists, but is wrong.
        (images.to_owned(), "train --data-dir data --max-steps 1 --run-dir run"),
        (".lock".to_owned(), "train --data-dir data --max-steps 1 --run-dir run"),
    ] {
        let sandbox = Sandbox::new();
        make_pipe(&sandbox.path("data/mnist").join(&name));
        let refused = soon(&sandbox, &format!("-q {words}"));
        assert_eq!(refused.code, Some(4), "{words}, {name}: {}", refused.stderr);
        let said = format!("data/mnist/{name}: expected a regular file, got a pipe");
        assert!(refused.stderr.contains(&said), "{words}, {name}: {}", refused.stderr);
        assert!(!sandbox.path("run").exists());
    }
}

#[test]
fn a_pipe_in_the_users_own_dataset_is_an_error() {
    let sandbox = sandbox();
    for name in ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"] {
        let path = sandbox.path("tiny").join(name);
        fs::remove_file(&path).unwrap();
        make_pipe(&path);
        let refused = soon(&sandbox, "-q train --config small.toml --run-dir run");
        assert_eq!(refused.code, Some(3), "{}", refused.stderr);
        assert!(refused.stderr.contains("expected a regular file"), "{}", refused.stderr);
    }
}

/// A download would otherwise be written to the link's target.
#[test]
fn a_download_does_not_resume_through_a_link() {
    let sandbox = Sandbox::new();
    sandbox.write("mine", "mine");
    fs::create_dir_all(sandbox.path("data/mnist")).unwrap();
    let part = sandbox.path("data/mnist/train-images-idx3-ubyte.gz.part");
    symlink("../../mine", part).unwrap();
    let refused = soon(&sandbox, "-q fetch mnist --data-dir data");
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("got a symbolic link"), "{}", refused.stderr);
    assert_eq!(sandbox.read("mine"), b"mine");
}
