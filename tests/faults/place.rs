//! Run folders that somebody holds, that lie or lead elsewhere, and clocks that are wrong.

#[cfg(unix)]
use std::ffi::OsStr;
use std::fs;

use super::{checkpoints, outcome, sandbox, uninterrupted};
use crate::running::Running;
use crate::support::Sandbox;

#[test]
fn a_second_trainer_is_refused() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --epochs 1000 --save-every 5 --run-dir run";
    let mut training = Running::start(&mut sandbox.command(words));
    training.wait_until(|| !checkpoints(&sandbox, "run").is_empty());
    let second = sandbox.run("-q train --resume run");
    assert_eq!(second.code, Some(4), "{}", second.stderr);
    assert!(second.stderr.contains("another process is training in run"), "{}", second.stderr);
    let verified = sandbox.run("verify run");
    assert_eq!(verified.code, Some(4), "{}", verified.stderr);
    assert!(verified.stderr.contains("another process is training in run"), "{}", verified.stderr);
    training.assert_goes_on();
}

/// What is written through a link would lie outside of the folder.
#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused_and_nothing_is_written_there() {
    use std::os::unix::fs::symlink;
    for name in ["checkpoints", "metrics.jsonl", "plots", "model.safetensors"] {
        let sandbox = sandbox();
        uninterrupted(&sandbox);
        fs::rename(sandbox.path("whole").join(name), sandbox.path("outside")).unwrap();
        symlink("../outside", sandbox.path("whole").join(name)).unwrap();
        let path =
            format!("whole/{name}: expected a file or folder of this run, got a symbolic link");
        sandbox.refuses(4, "train --resume whole").saying(&[&path]);
    }
}

/// A link among the checkpoints is none of them.
#[cfg(unix)]
#[test]
fn a_link_among_the_checkpoints_is_not_taken_for_one() {
    use std::os::unix::fs::symlink;
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let outside = sandbox.path("outside");
    fs::rename(sandbox.path("whole/checkpoints/step-000040"), &outside).unwrap();
    symlink(&outside, sandbox.path("whole/checkpoints/step-000040")).unwrap();
    let before = fs::read(outside.join("state.json")).unwrap();
    let said = sandbox.run("train --resume whole").succeeded().stderr;
    assert!(said.contains("going on from whole/checkpoints/step-000036"), "{said}");
    assert_eq!(outcome(&sandbox, "whole"), whole);
    assert_eq!(fs::read(outside.join("state.json")).unwrap(), before);
    assert!(sandbox.path("whole/checkpoints/step-000040").symlink_metadata().unwrap().is_dir());
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_no_text_is_as_good_as_any() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let name = OsStr::from_bytes(b"r\xffn");
    let train = |words: &str| {
        let output = sandbox.command(words).arg(name).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    train("-q train --config small.toml --run-dir");
    let last = sandbox.path("").join(name).join("checkpoints/step-000040");
    fs::remove_dir_all(last).unwrap();
    train("-q train --resume");
    train("-q verify");
    fs::rename(sandbox.path("").join(name), sandbox.path("run")).unwrap();
    assert_eq!(outcome(&sandbox, "run"), whole);
}

/// Files of tomorrow, as after a clock was set back: their times decide nothing.
#[test]
fn a_clock_that_was_set_back_changes_nothing() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    for step in [32, 36] {
        let path = sandbox.path(format!("whole/checkpoints/step-{step:06}/state.json"));
        fs::File::options().write(true).open(path).unwrap().set_modified(tomorrow).unwrap();
    }
    fs::remove_dir_all(sandbox.path("whole/checkpoints/step-000040")).unwrap();
    let said = sandbox.run("train --resume whole").succeeded().stderr;
    assert!(said.contains("going on from whole/checkpoints/step-000036"), "{said}");
    assert_eq!(outcome(&sandbox, "whole"), whole);
}
