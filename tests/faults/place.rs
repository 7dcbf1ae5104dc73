//! Run directories that are in use, are moved or contain links; and wrong clocks.

#[cfg(unix)]
use std::ffi::OsStr;
use std::fs;
use std::time::{Duration, SystemTime};

#[cfg(target_os = "linux")]
use super::compile;
use super::{checkpoints, outcome, sandbox, uninterrupted};
use crate::running::Running;
#[cfg(target_os = "linux")]
use crate::support::Outcome;
use crate::support::Sandbox;

#[test]
fn a_second_training_process_is_rejected() {
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
    training.assert_is_running();
}

/// Writing through a link would write outside of the run directory.
#[cfg(unix)]
#[test]
fn a_link_out_of_the_run_directory_is_rejected_and_its_target_not_written() {
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

/// A link among the checkpoints is not a checkpoint.
#[cfg(unix)]
#[test]
fn links_among_the_checkpoints_are_ignored() {
    use std::os::unix::fs::symlink;
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let outside = sandbox.path("outside");
    fs::rename(sandbox.path("whole/checkpoints/step-000040"), &outside).unwrap();
    symlink(&outside, sandbox.path("whole/checkpoints/step-000040")).unwrap();
    let before = fs::read(outside.join("state.json")).unwrap();
    let said = sandbox.run("train --resume whole").succeeded().stderr;
    assert!(said.contains("resuming from whole/checkpoints/step-000036"), "{said}");
    assert_eq!(outcome(&sandbox, "whole"), whole);
    assert_eq!(fs::read(outside.join("state.json")).unwrap(), before);
    assert!(sandbox.path("whole/checkpoints/step-000040").symlink_metadata().unwrap().is_dir());
}

#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf8_work() {
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

/// File times in the future, as after a clock was set back, must not decide which checkpoint is newest.
#[test]
fn file_times_do_not_matter() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    for step in [32, 36] {
        let path = sandbox.path(format!("whole/checkpoints/step-{step:06}/state.json"));
        fs::File::options().write(true).open(path).unwrap().set_modified(tomorrow).unwrap();
    }
    fs::remove_dir_all(sandbox.path("whole/checkpoints/step-000040")).unwrap();
    let said = sandbox.run("train --resume whole").succeeded().stderr;
    assert!(said.contains("resuming from whole/checkpoints/step-000036"), "{said}");
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

/// An interposer for the system's clock that shifts the time of day.
#[cfg(target_os = "linux")]
const CLOCK: &str = "\
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    int code = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += atol(getenv(\"CLOCK_OFF_BY\"));
    return code;
}
";

/// A run that starts in the future, and resumes before its start.
#[cfg(target_os = "linux")]
#[test]
fn setting_the_clock_back_changes_nothing() {
    let sandbox = sandbox();
    compile(&sandbox, "clock", CLOCK);
    let train = |words: &str, years: i64| {
        let mut command = sandbox.command(&format!("train {words} --tensorboard --save-every 5"));
        command.env("LD_PRELOAD", sandbox.path("clock.so"));
        command.env("CLOCK_OFF_BY", (years * 31_557_600).to_string());
        Outcome::of(&command.output().unwrap()).succeeded()
    };
    let begun = || {
        let environment = String::from_utf8(sandbox.read("run/env.json")).unwrap();
        let (_, begun) = environment.split_once("\"begun\": \"").unwrap();
        begun[..4].parse::<i64>().unwrap()
    };
    sandbox.run("-q train --config small.toml --run-dir now").succeeded();
    train("--config small.toml --run-dir run", 40);
    assert!(begun() > 2060, "{}", begun());
    assert_eq!(outcome(&sandbox, "run"), outcome(&sandbox, "now"));
    fs::remove_dir_all(sandbox.path("run/checkpoints/step-000040")).unwrap();
    let said = train("--resume run", -40).stderr;
    assert!(said.contains("resuming from run/checkpoints/step-000035"), "{said}");
    assert_eq!(checkpoints(&sandbox, "run"), [30, 35, 40]);
    assert_eq!(outcome(&sandbox, "run"), outcome(&sandbox, "now"));
    assert_eq!(fs::read_dir(sandbox.path("run/tensorboard")).unwrap().count(), 1);
    sandbox.run("verify run --files-only").succeeded();
}
