//! A small training run that uses everything with state or randomness; faults and ranks must not change its result.

use std::fs;

use serde_json::Value;
use vit_files::Digest;

use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, timeless};

/// Number of repetitions: few, or many in a soak.
pub(crate) fn times(few: usize, soak: usize) -> usize {
    if std::env::var_os("VIT_SOAK").is_some() { soak } else { few }
}

/// Dropout, augmentation, a schedule, EMA, clipping and a validation split. Trains on 36 images, in four steps of 9 an
/// epoch, each in shards of 2, 2, 2 and 3: 40 steps. Records every third step of an epoch.
pub(crate) const SETTINGS: &str = "\
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
pub(crate) fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    sandbox.write("small.toml", SETTINGS);
    sandbox
}

/// The result of a run, except times: digests of its files, and its metrics.
#[derive(Debug, PartialEq)]
pub(crate) struct Trained {
    pub(crate) model: Digest,
    pub(crate) best: Digest,
    /// Parameters, averages and moments.
    state: Digest,
    pub(crate) metrics: Vec<Value>,
}

pub(crate) fn outcome(sandbox: &Sandbox, run: &str) -> Trained {
    let digest = |name: &str| Digest::of_bytes(&sandbox.read(&format!("{run}/{name}")));
    Trained {
        model: digest("model.safetensors"),
        best: digest("best.safetensors"),
        state: digest("checkpoints/last/state.safetensors"),
        metrics: timeless(&sandbox.read(&format!("{run}/metrics.jsonl"))),
    }
}

/// The result of one uninterrupted process.
pub(crate) fn uninterrupted(sandbox: &Sandbox) -> Trained {
    sandbox.run("-q train --config small.toml --save-every 4 --run-dir whole").succeeded();
    outcome(sandbox, "whole")
}

/// Steps of a run's checkpoints, ascending.
pub(crate) fn checkpoints(sandbox: &Sandbox, run: &str) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(sandbox.path(run).join("checkpoints")) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let steps = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok());
    let mut steps: Vec<u64> = steps.collect();
    steps.sort_unstable();
    steps
}

/// Checks every checkpoint of the run `run`.
#[track_caller]
pub(crate) fn assert_checkpoints_are_whole(sandbox: &Sandbox) {
    if checkpoints(sandbox, "run").is_empty() {
        return;
    }
    let found = sandbox.run("verify run --files-only --json");
    let found: Vec<Value> = serde_json::from_str(&found.stdout).unwrap();
    for part in found {
        let is_checkpoint = part["part"].as_str().unwrap().starts_with("checkpoints/");
        assert!(!is_checkpoint || part["sound"] == true, "{part}");
    }
}

/// Pseudo-random numbers, the same in every run of a test (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
