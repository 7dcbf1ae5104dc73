//! `kill -9` at any moment.
#![cfg(unix)]

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{
    Dice, SETTINGS, assert_checkpoints_are_whole, checkpoints, outcome, sandbox, times,
    uninterrupted,
};
use crate::support::{Sandbox, json_lines};

/// Steps between two checkpoints.
const EVERY: u64 = 3;

/// A run is killed and resumed until it ends by itself; then another starts, until there were enough kills.
///
/// After each kill every checkpoint is undamaged, and the metrics are at most one interval ahead of the newest
/// checkpoint, so little is trained again. At each end `model.safetensors` and `best.safetensors` are byte for byte
/// an uninterrupted run's, and so is each line of `metrics.jsonl` except for times.
#[test]
fn killing_at_any_moment_and_resuming_is_bit_identical() {
    let sandbox = sandbox();
    // Every step is recorded, to see how far the metrics are ahead.
    sandbox.write("small.toml", SETTINGS.replace("log_every = 3", "log_every = 1"));
    let whole = uninterrupted(&sandbox);
    let mut dice = Dice(7);
    let (mut deaths, mut runs) = (0, 0);
    while deaths < times(15, 500) || runs == 0 {
        let new = !sandbox.path("run").exists();
        let words = if new { "--config small.toml --run-dir run" } else { "--resume run" };
        let words = format!("-q train {words} --save-every {EVERY} --threads 2");
        let mut command = sandbox.command(&words);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // Short and long lives: during the start, one step, many steps.
        let longest = [40, 80, 160, 400][dice.below(4) as usize];
        thread::sleep(Duration::from_micros(dice.below(1000 * longest)));
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        match ended.status.code() {
            None => {
                deaths += 1;
                assert_little_is_lost(&sandbox);
            }
            Some(code) => {
                assert_eq!(code, 0, "{}", String::from_utf8_lossy(&ended.stderr));
                assert_eq!(outcome(&sandbox, "run"), whole, "after {deaths} deaths");
                runs += 1;
                fs::remove_dir_all(sandbox.path("run")).unwrap();
            }
        }
    }
    println!("{deaths} deaths in {runs} whole runs");
}

/// Checks that the metrics are at most an interval ahead of the newest checkpoint, and that each checkpoint is
/// undamaged.
#[track_caller]
fn assert_little_is_lost(sandbox: &Sandbox) {
    let metrics = sandbox.path("run/metrics.jsonl");
    let Ok(text) = fs::read_to_string(metrics) else { return };
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let last = json_lines(whole).last().map_or(0, |record| record["step"].as_u64().unwrap());
    let newest = checkpoints(sandbox, "run").last().copied().unwrap_or(0);
    assert!(last <= newest + EVERY, "recorded step {last}, checkpoint {newest}");
    assert_checkpoints_are_whole(sandbox);
}

/// A run with a checkpoint but no model yet: the hint names what to use.
#[test]
fn a_run_killed_before_its_first_model_is_sound() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::remove_file(sandbox.path("whole/model.safetensors")).unwrap();
    let verified = sandbox.run("verify whole --files-only").succeeded().stdout;
    assert!(verified.contains("not written yet: `vit train --resume` writes it"), "{verified}");
    let refusal = sandbox.refuses(4, "info whole");
    assert!(refusal.hint.contains("whole/checkpoints/last"), "{refusal:?}");
    sandbox.run("info whole/checkpoints/last").succeeded();
    sandbox.run("-q train --resume whole").succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

/// `checkpoints/last` still is the checkpoint before.
#[test]
fn a_run_killed_after_its_last_checkpoint_gets_its_link() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let folder = sandbox.path("whole/checkpoints");
    fs::remove_file(folder.join("last")).unwrap();
    std::os::unix::fs::symlink("step-000036", folder.join("last")).unwrap();
    sandbox.run("-q train --resume whole").succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

/// The shell's `kill`, because this signal cannot be caught.
#[test]
fn a_run_directory_is_complete_as_soon_as_it_exists() {
    let sandbox = sandbox();
    for wait in (0..times(10, 200)).map(|at| at as u64 * 4) {
        let run = sandbox.path("run");
        let mut command = sandbox.command("-q train --config small.toml --run-dir run");
        let child = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(wait));
        let process = child.id().to_string();
        let mut child = child;
        Command::new("kill").args(["-s", "KILL", &process]).status().unwrap();
        child.wait().unwrap();
        if run.exists() {
            for name in ["config.toml", "env.json", "metrics.jsonl"] {
                assert!(run.join(name).exists(), "{name} after {wait} ms");
            }
            fs::remove_dir_all(run).unwrap();
        }
    }
}
