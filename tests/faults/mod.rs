//! Faults, in real processes: what a run loses, what it leaves behind, and its messages.
//!
//! `VIT_SOAK=1`, which `cargo xtask soak` sets, repeats randomised tests far more often.

mod damage;
mod disk;
mod divergence;
mod every_step;
#[cfg(target_os = "linux")]
mod hostile;
mod interrupted;
#[cfg(unix)]
mod irregular;
mod kept;
mod kill;
mod other;
mod place;
#[cfg(target_os = "linux")]
mod temporary;

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, timeless};

/// Number of repetitions: few, or many in a soak.
fn times(seldom: usize, soak: usize) -> usize {
    if std::env::var_os("VIT_SOAK").is_some() { soak } else { seldom }
}

/// Uses everything with state or randomness: dropout, augmentation, a schedule, EMA, validation. Trains on 36 images,
/// in four steps of 9 an epoch: 40 steps. Records every third step of an epoch.
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

/// A sandbox in which [`SETTINGS`] can be trained.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    sandbox.write("small.toml", SETTINGS);
    sandbox
}

/// What must be equal however often a run was interrupted.
#[derive(Debug, PartialEq)]
struct Outcome {
    model: Vec<u8>,
    best: Vec<u8>,
    metrics: Vec<Value>,
}

fn outcome(sandbox: &Sandbox, run: &str) -> Outcome {
    Outcome {
        model: sandbox.read(&format!("{run}/model.safetensors")),
        best: sandbox.read(&format!("{run}/best.safetensors")),
        metrics: timeless(&sandbox.read(&format!("{run}/metrics.jsonl"))),
    }
}

/// The outcome of an uninterrupted run.
fn uninterrupted(sandbox: &Sandbox) -> Outcome {
    sandbox.run("-q train --config small.toml --save-every 4 --run-dir whole").succeeded();
    outcome(sandbox, "whole")
}

/// Copies a folder recursively; links stay links.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&from, &to);
        } else if kind.is_symlink() {
            #[cfg(unix)]
            std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Steps of a run's checkpoints, ascending.
fn checkpoints(sandbox: &Sandbox, run: &str) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(sandbox.path(run).join("checkpoints")) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let steps = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok());
    let mut steps: Vec<u64> = steps.collect();
    steps.sort_unstable();
    steps
}

/// Rewrites the last checkpoint of the run `whole` with these bytes as one of its files, and matching digests, so that
/// only the content is wrong.
fn rewrite(sandbox: &Sandbox, name: &str, bytes: &[u8]) {
    let run = sandbox.path("whole");
    let path = run.join("checkpoints/step-000040");
    let names = ["config.toml", "model.safetensors", "state.json", "state.safetensors"];
    let old = names.map(|name| (name, fs::read(path.join(name)).unwrap()));
    let files =
        old.each_ref().map(|(other, old)| (*other, if *other == name { bytes } else { old }));
    vit_files::write_folder_atomically(&path, &run, &files).unwrap();
}

/// Checks that no temporary files are left.
#[track_caller]
fn assert_nothing_temporary(sandbox: &Sandbox) {
    let entries = sandbox.entries();
    let temporary = entries
        .iter()
        .find(|path| path.to_string_lossy().contains("/.tmp-") || path.starts_with(".tmp-"));
    assert_eq!(temporary, None);
}

/// Pseudo-random numbers, the same in every run of a test (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
