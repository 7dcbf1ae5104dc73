//! Real launches of one to four ranks over MPI, built and run by `cargo xtask test-mpi`.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panicking helper fails its test")]

#[path = "../idx_folder.rs"]
mod idx_folder;
#[path = "../running.rs"]
#[expect(dead_code, reason = "these tests use only parts of it")]
mod running;
#[path = "../small_run.rs"]
mod small_run;
#[path = "../support.rs"]
#[expect(dead_code, reason = "these tests use only parts of it")]
mod support;

mod faults;
mod mistakes;
mod nodes;
mod same_bits;
mod signals;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::small_run::{
    Dice, SETTINGS, assert_checkpoints_are_whole, checkpoints, outcome, sandbox, times,
    uninterrupted,
};
use crate::support::{Outcome, Sandbox};

/// Flags of Open MPI: many ranks on few cores, also as root, and time to save after a signal.
const FLAGS: [&str; 8] = [
    "--oversubscribe",
    "--allow-run-as-root",
    "--bind-to",
    "none",
    "--mca",
    "odls_base_sigkill_timeout",
    "2",
    "-n",
];

/// Each rank records its process id and becomes `vit`.
const NOTED: &str = "echo $$ > rank-$OMPI_COMM_WORLD_RANK; exec \"$0\" \"$@\"";

/// `vit` with these words on this many ranks.
fn mpirun(sandbox: &Sandbox, ranks: usize, words: &str) -> Command {
    scripted(sandbox, ranks, NOTED, words)
}

/// The same, started by this script, in which `"$0" "$@"` is `vit` with its words and `$OMPI_COMM_WORLD_RANK` the rank.
fn scripted(sandbox: &Sandbox, ranks: usize, script: &str, words: &str) -> Command {
    let ranks = ranks.to_string();
    let line = [&FLAGS[..], &[&*ranks, "sh", "-c", script]].concat();
    sandbox.command_by("mpirun", &line, words)
}

fn on_ranks(sandbox: &Sandbox, ranks: usize, words: &str) -> Outcome {
    Outcome::of(&mpirun(sandbox, ranks, words).output().unwrap())
}

/// Lines of stderr from vit, and from mpirun about a lost rank, without mpirun's banners.
fn errors(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect()
}

/// The process id of a rank, once recorded.
fn process_of(sandbox: &Sandbox, rank: usize) -> Option<u32> {
    fs::read_to_string(sandbox.path(format!("rank-{rank}"))).ok()?.trim().parse().ok()
}

/// Whether a `vit` process is alive and not a zombie.
fn lives(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// Sends a signal to a process, which may have ended by itself.
fn signal(process: u32, name: &str) {
    Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
}

fn has_metrics(folder: &Path) -> bool {
    fs::metadata(folder.join("metrics.jsonl")).is_ok_and(|metrics| metrics.len() > 0)
}
