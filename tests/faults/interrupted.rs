//! Ctrl-C at any moment, once or twice.
#![cfg(unix)]

use std::fs;

use serde_json::Value;

use super::{checkpoints, outcome, sandbox};
use crate::idx_folder::IdxFolder;
use crate::interrupt::send;
use crate::running::Running;
use crate::support::{Sandbox, json_lines, timeless};

/// Steps slow enough to be interrupted: four an epoch, of 45 images, with a record of each.
const SLOW: &str = "\
dataset = 'images'
val_split = 0.1
[train]
epochs = 2
batch_size = 45
log_every = 1
[model]
dim = 192
mlp_dim = 768
depth = 3
dropout = { embedding = 0.1, attention = 0.2, projection = 0.2, mlp = 0.2 }
";

/// The last recorded step, or 0.
fn recorded(sandbox: &Sandbox) -> u64 {
    let text = fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    json_lines(whole).last().and_then(|record| record["step"].as_u64()).unwrap_or(0)
}

/// Trains, sends a signal once this step is recorded, and returns stderr.
fn interrupted_after(sandbox: &Sandbox, words: &str, step: u64) -> String {
    let mut training = Running::start(&mut sandbox.command(words));
    training.wait_until(|| sandbox.path("run/metrics.jsonl").exists() && recorded(sandbox) >= step);
    send("INT", &mut training);
    let ended = training.end();
    assert_eq!(ended.code, Some(130), "after step {step}: {}", ended.stderr);
    ended.stderr
}

/// The last two are the end of an epoch and `--max-steps`, which are followed by an evaluation.
#[test]
fn resuming_after_a_signal_in_any_step_is_bit_identical() {
    let sandbox = Sandbox::new();
    IdxFolder { train: 200, ..IdxFolder::default() }.write(&sandbox, "images");
    sandbox.write("slow.toml", SLOW);
    let words = "train --config slow.toml --max-steps 6 --run-dir";
    sandbox.run(&format!("-q {words} whole")).succeeded();
    let whole = outcome(&sandbox, "whole");
    for step in [0, 2, 4, 5] {
        interrupted_after(&sandbox, &format!("{words} run"), step);
        let resumed = sandbox.run("-q train --resume run").succeeded();
        assert!(resumed.stdout.contains("test accuracy"), "{}", resumed.stdout);
        assert_eq!(outcome(&sandbox, "run"), whole, "after step {step}");
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

/// The step in progress takes longer than an interrupted run waits for it, and is discarded; the state before it was kept
/// ready.
#[test]
fn interrupting_a_slow_step_loses_only_that_step() {
    let sandbox = Sandbox::new();
    IdxFolder { train: 288, ..IdxFolder::default() }.write(&sandbox, "images");
    let slow =
        SLOW.replace("dim = 192\nmlp_dim = 768\ndepth = 3", "dim = 384\nmlp_dim = 1024\ndepth = 6");
    let slow = slow.replace("= 45", "= 144").replace("val_split = 0.1\n", "");
    sandbox.write("slow.toml", slow);
    let words = "train --config slow.toml --epochs 1 --threads 1 --run-dir";
    sandbox.run(&format!("-q {words} whole")).succeeded();
    let without_best = |run: &str| -> (Vec<u8>, Vec<Value>) {
        let metrics = sandbox.read(&format!("{run}/metrics.jsonl"));
        (sandbox.read(&format!("{run}/model.safetensors")), timeless(&metrics))
    };
    let said = interrupted_after(&sandbox, &format!("{words} run"), 1);
    assert!(said.contains("interrupted; the run is saved in run"), "{said}");
    assert!(!checkpoints(&sandbox, "run").is_empty(), "{said}");
    sandbox.run("-q train --resume run").succeeded();
    assert!(without_best("run") == without_best("whole"), "{said}");
}

#[test]
fn after_two_signals_the_run_is_sound_and_resumes_bit_identically() {
    let sandbox = sandbox();
    let words = "train --config small.toml --epochs 60 --save-every 3 --run-dir";
    sandbox.run(&format!("-q {words} whole")).succeeded();
    let whole = outcome(&sandbox, "whole");
    // Step 12 is after the first prefix that `vit verify` repeats.
    for step in [12, 60] {
        let mut training = Running::start(&mut sandbox.command(&format!("-q {words} run")));
        training.wait_until(|| checkpoints(&sandbox, "run").last().is_some_and(|&at| at >= step));
        send("INT", &mut training);
        send("INT", &mut training);
        let ended = training.end();
        assert_eq!(ended.code, Some(130), "after step {step}: {}", ended.stderr);
        sandbox.run("verify run").succeeded();
        sandbox.run("-q train --resume run").succeeded();
        assert_eq!(outcome(&sandbox, "run"), whole, "after step {step}");
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}
