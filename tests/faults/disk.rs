//! Limited files, and missing folders.
#![cfg(unix)]

use std::fs;

use super::{checkpoints, copy, outcome, sandbox, uninterrupted};
use crate::running::Running;
use crate::support::{Outcome, Sandbox};

/// `vit` with a limit on the size of its files, in blocks of 512 bytes.
pub(super) fn limited(sandbox: &Sandbox, blocks: u32, words: &str) -> Outcome {
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    Outcome::of(&sandbox.script(&[], &script, words).output().unwrap())
}

/// The limit is below the state's size, but above the files written before it.
#[test]
fn a_file_size_limit_ends_the_run_and_keeps_the_last_checkpoint() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let state = sandbox.read("whole/checkpoints/step-000040/state.safetensors").len();
    let words = "train --config small.toml --save-every 5 --keep 9 --run-dir run";
    let stopped = limited(&sandbox, (state / 512 - 2) as u32, &format!("-q {words}"));
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("cannot write run/checkpoints/step-"), "{}", stopped.stderr);
    assert!(checkpoints(&sandbox, "run").is_empty());
    sandbox.assert_nothing_temporary();
    // An existing checkpoint stays, and the run resumes from it.
    copy(&sandbox.path("whole"), &sandbox.path("second"));
    for later in [36, 40] {
        fs::remove_dir_all(sandbox.path(format!("second/checkpoints/step-{later:06}"))).unwrap();
    }
    let stopped = limited(&sandbox, (state / 512 - 2) as u32, "-q train --resume second");
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert_eq!(checkpoints(&sandbox, "second"), [32]);
    sandbox.assert_nothing_temporary();
    for run in ["run", "second"] {
        sandbox.run(&format!("-q train --resume {run}")).succeeded();
        assert_eq!(outcome(&sandbox, run), whole);
    }
}

#[test]
fn a_full_disk_while_caching_pictures_leaves_no_cache() {
    let sandbox = Sandbox::new();
    crate::own_pictures::flowers(&sandbox);
    let words = "--dataset flowers --image-size 32 --batch-size 16 --max-steps 2 --data-dir data --run-dir run";
    let stopped = limited(&sandbox, 64, &format!("-q train {words}"));
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("cannot write"), "{}", stopped.stderr);
    sandbox.assert_nothing_temporary();
    assert!(fs::read_dir(sandbox.path("data/pictures")).unwrap().next().is_none());
    assert!(!sandbox.path("run").exists());
    sandbox.run(&format!("-q train {words}")).succeeded();
}

/// Nothing is created at the old path; the run resumes at the new one.
#[test]
fn moving_the_run_directory_ends_the_run() {
    let sandbox = sandbox();
    sandbox.write("long.toml", super::SETTINGS.replace("epochs = 10", "epochs = 150"));
    let words = "-q train --config long.toml --run-dir";
    sandbox.run(&format!("{words} whole")).succeeded();
    for is_kept in [true, false] {
        let mut training = Running::start(&mut sandbox.command(&format!("{words} run")));
        training.wait_until(|| !checkpoints(&sandbox, "run").is_empty());
        fs::rename(sandbox.path("run"), sandbox.path("moved")).unwrap();
        if !is_kept {
            fs::remove_dir_all(sandbox.path("moved")).unwrap();
        }
        let ended = training.end();
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert!(lines[0].starts_with("error: cannot ") && lines[0].contains(" run"), "{lines:?}");
        let hint = "hint: run is gone: if it was moved, continue there with `vit train --resume`";
        assert_eq!(lines[1], hint);
        assert!(!sandbox.path("run").exists());
        if is_kept {
            sandbox.run("-q train --resume moved").succeeded();
            assert_eq!(outcome(&sandbox, "moved"), outcome(&sandbox, "whole"));
            fs::remove_dir_all(sandbox.path("moved")).unwrap();
        }
    }
}

#[test]
fn unwritable_places_are_reported_before_training() {
    let sandbox = sandbox();
    sandbox.write("file", "");
    for place in ["file/run", "/proc/run"] {
        let words = format!("train --config small.toml --run-dir {place}");
        sandbox.refuses(4, &words).saying(&["cannot"]);
    }
}
