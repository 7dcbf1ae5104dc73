//! Real launches of one to four ranks over MPI, which `cargo xtask test-mpi` builds and runs.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

#[path = "../idx_folder.rs"]
mod idx_folder;
#[path = "../running.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod running;
#[path = "../support.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod support;

mod faults;
mod mistakes;
mod nodes;
mod same_bits;
mod signals;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::idx_folder::IdxFolder;
use crate::support::{Outcome, Sandbox, timeless};

/// How often something is tried: seldom, or in a soak.
fn times(seldom: usize, soak: usize) -> usize {
    if std::env::var_os("VIT_SOAK").is_some() { soak } else { seldom }
}

/// All that can be random or remembered in a run: dropout, augmentation, a schedule, an EMA, clipping, a validation split. 36 images
/// are trained on, in four steps of 9 an epoch, each in shards of 2, 2, 2 and 3: 40 steps.
const SETTINGS: &str = "\
dataset = 'tiny'
val_split = 0.1
[augment]
shift = 2.0
rotation = 10.0
elastic = 1.0
[train]
epochs = 10
batch_size = 9
log_every = 3
ema = 0.9
clip = 1.0
[train.schedule]
kind = 'one-cycle'
[train.optimizer]
kind = 'adamw'
lr = 1e-3
weight_decay = 0.05
[model]
depth = 1
dropout = { embedding = 0.1, attention = 0.2, projection = 0.2, mlp = 0.2 }
";

/// Where [`SETTINGS`] can be trained.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    sandbox.write("small.toml", SETTINGS);
    sandbox
}

/// Open MPI's flags: many ranks on few cores, also as root, and time to save after a signal.
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

/// Each rank notes its process, and becomes `vit`.
const NOTED: &str = "echo $$ > rank-$OMPI_COMM_WORLD_RANK; exec \"$0\" \"$@\"";

/// `vit` with these words on so many ranks.
fn mpirun(sandbox: &Sandbox, ranks: usize, words: &str) -> Command {
    scripted(sandbox, ranks, NOTED, words)
}

/// The same, started by this script, in which `"$0" "$@"` is `vit` with its words.
fn scripted(sandbox: &Sandbox, ranks: usize, script: &str, words: &str) -> Command {
    let ranks = ranks.to_string();
    let line = [&FLAGS[..], &[&*ranks, "sh", "-c", script]].concat();
    sandbox.command_by("mpirun", &line, words)
}

fn on_ranks(sandbox: &Sandbox, ranks: usize, words: &str) -> Outcome {
    Outcome::of(&mpirun(sandbox, ranks, words).output().unwrap())
}

/// Lines of stderr that vit says, or mpirun of a lost rank, without what mpirun draws around.
fn errors(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect()
}

/// All that is to be the same on any number of ranks.
#[derive(Debug, PartialEq)]
struct Trained {
    model: Vec<u8>,
    best: Vec<u8>,
    /// Parameters, averages and moments.
    state: Vec<u8>,
    metrics: Vec<Value>,
}

fn result(sandbox: &Sandbox, run: &str) -> Trained {
    Trained {
        model: sandbox.read(&format!("{run}/model.safetensors")),
        best: sandbox.read(&format!("{run}/best.safetensors")),
        state: sandbox.read(&format!("{run}/checkpoints/last/state.safetensors")),
        metrics: timeless(&sandbox.read(&format!("{run}/metrics.jsonl"))),
    }
}

/// What the run of one process comes to that nothing interrupts.
fn uninterrupted(sandbox: &Sandbox) -> Trained {
    sandbox.run("-q train --config small.toml --save-every 4 --run-dir whole").succeeded();
    result(sandbox, "whole")
}

/// The process of a rank, once it has noted it.
fn process_of(sandbox: &Sandbox, rank: usize) -> Option<u32> {
    fs::read_to_string(sandbox.path(format!("rank-{rank}"))).ok()?.trim().parse().ok()
}

/// Whether a process that is `vit` lives, and is more than an entry that its parent has not read.
fn lives(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.unwrap().success());
}

fn has_metrics(folder: &Path) -> bool {
    fs::metadata(folder.join("metrics.jsonl")).is_ok_and(|metrics| metrics.len() > 0)
}
