//! Temporary files disappear when their process is ended, or when the next process writes there.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::compile;
use crate::interrupt::send;
use crate::running::Running;
use crate::support::Sandbox;

/// An interposer that makes the disk slow: half a minute for each file, even during a signal.
const SLOW_DISK: &str = "\
#include <unistd.h>
int fsync(int file) {
    for (unsigned left = 30; left > 0;) left = sleep(left);
    return 0;
}
";

/// A page being written to a slow disk.
fn writing(sandbox: &Sandbox) -> Running {
    compile(sandbox, "disk", SLOW_DISK);
    fs::create_dir_all(sandbox.path("pages")).unwrap();
    let mut command = sandbox.command("compare run -o pages/compare.html");
    let mut writing = Running::start(command.env("LD_PRELOAD", sandbox.path("disk.so")));
    writing.wait_until(|| !pages(sandbox).is_empty());
    writing
}

fn pages(sandbox: &Sandbox) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.path("pages")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_signal_during_a_write_leaves_no_partial_file() {
    for signal in ["INT", "TERM"] {
        let sandbox = Sandbox::new();
        sandbox.train_digits("--max-steps 1");
        let mut writing = writing(&sandbox);
        send(signal, &mut writing);
        let ended = writing.end();
        assert_eq!(ended.code, Some(130), "{}", ended.stderr);
        assert!(pages(&sandbox).is_empty(), "SIG{signal}: {:?}", pages(&sandbox));
    }
}

#[test]
fn leftovers_of_a_killed_process_are_removed_by_the_next_write() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let writing = writing(&sandbox);
    // Drop kills it.
    drop(writing);
    let left = pages(&sandbox);
    assert_eq!(left.len(), 1, "{left:?}");
    sandbox.run("-q compare run -o pages/first.html").succeeded();
    assert!(left[0].exists(), "a young file may still be in use");
    let old = SystemTime::now() - Duration::from_secs(120);
    fs::File::options().write(true).open(&left[0]).unwrap().set_modified(old).unwrap();
    sandbox.run("-q compare run -o pages/second.html").succeeded();
    assert!(!left[0].exists());
    assert_eq!(pages(&sandbox).len(), 2);
}

#[test]
fn files_being_written_by_another_process_are_kept() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let mut writing = writing(&sandbox);
    let written = pages(&sandbox).remove(0);
    let old = SystemTime::now() - Duration::from_secs(120);
    fs::File::options().write(true).open(&written).unwrap().set_modified(old).unwrap();
    sandbox.run("-q compare run -o pages/second.html").succeeded();
    assert!(written.exists());
    writing.assert_is_running();
}
