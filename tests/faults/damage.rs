//! Damaged checkpoints.

use std::fs;
use std::path::PathBuf;

use super::{Dice, checkpoints, copy, outcome, sandbox, times, uninterrupted};
use crate::support::Sandbox;

/// A run with its last three checkpoints: after 32, 36 and 40 steps.
fn trained() -> (Sandbox, super::Trained) {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    assert_eq!(checkpoints(&sandbox, "whole"), [32, 36, 40]);
    (sandbox, whole)
}

fn files_of(sandbox: &Sandbox, checkpoint: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.path(checkpoint)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Any bit of any file; resuming uses the previous checkpoint, with the same final result.
#[test]
fn after_a_flipped_bit_the_previous_checkpoint_is_used() {
    let (sandbox, whole) = trained();
    let mut dice = Dice(3);
    for (at, file) in (0..times(2, 40))
        .flat_map(|_| files_of(&sandbox, "whole/checkpoints/step-000040"))
        .enumerate()
    {
        let name = file.file_name().unwrap().to_owned();
        copy(&sandbox.path("whole"), &sandbox.path("run"));
        let path = sandbox.path("run/checkpoints/step-000040").join(&name);
        let mut bytes = fs::read(&path).unwrap();
        let bit = dice.below(8 * bytes.len() as u64) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let said = sandbox.run("train --resume run").succeeded().stderr;
        let context = format!("{at}: bit {bit} of {}: {said}", name.display());
        assert!(said.contains("run/checkpoints/step-000040/"), "{context}");
        assert!(said.contains("resuming from run/checkpoints/step-000036"), "{context}");
        assert!(outcome(&sandbox, "run") == whole, "{context}");
        sandbox.run("verify run --files-only").succeeded();
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

#[test]
fn after_a_truncation_the_previous_checkpoint_is_used() {
    let (sandbox, whole) = trained();
    let mut dice = Dice(5);
    for file in (0..times(1, 20)).flat_map(|_| files_of(&sandbox, "whole/checkpoints/step-000040"))
    {
        let name = file.file_name().unwrap().to_owned();
        copy(&sandbox.path("whole"), &sandbox.path("run"));
        let path = sandbox.path("run/checkpoints/step-000040").join(&name);
        let len = dice.below(fs::metadata(&path).unwrap().len());
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        let said = sandbox.run("train --resume run").succeeded().stderr;
        assert!(said.contains("resuming from run/checkpoints/step-000036"), "{len}: {said}");
        assert!(outcome(&sandbox, "run") == whole, "{} cut to {len}", name.display());
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

/// A damaged checkpoint is newer than all that will be written, and must not displace undamaged ones.
#[cfg(unix)]
#[test]
fn a_damaged_checkpoint_does_not_outlive_good_ones() {
    let (sandbox, whole) = trained();
    for step in [36, 40] {
        sandbox.write(&format!("whole/checkpoints/step-{step:06}/state.json"), "{}");
    }
    let words = "-q train --resume whole --keep 1 --save-every 1";
    // No further checkpoint can be written.
    let stopped = super::disk::limited(&sandbox, 20, words);
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert_eq!(checkpoints(&sandbox, "whole"), [32]);
    sandbox.run(words).succeeded();
    assert_eq!(checkpoints(&sandbox, "whole"), [40]);
    for step in [36, 40] {
        let aside = sandbox.path(format!("whole/checkpoints/aside-step-{step:06}/state.json"));
        assert_eq!(fs::read(aside).unwrap(), b"{}");
    }
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

/// A length beyond any disk, and beyond the run's model.
#[cfg(unix)]
#[test]
fn a_two_terabyte_file_is_rejected_without_reading_it() {
    let (sandbox, _) = trained();
    for name in ["state.json", "model.safetensors", "SHA256SUMS"] {
        let path = sandbox.path("whole/checkpoints/step-000040").join(name);
        let bytes = fs::read(&path).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 40).unwrap();
        let verified = sandbox.run("verify whole --files-only");
        assert_eq!(verified.code, Some(4), "{}", verified.stderr);
        assert!(verified.stdout.contains(name), "{}", verified.stdout);
        fs::write(&path, bytes).unwrap();
    }
    for name in ["model.safetensors", "best.safetensors"] {
        let path = sandbox.path("whole").join(name);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 40).unwrap();
    }
    let verified = sandbox.run("verify whole --files-only");
    assert_eq!(verified.stdout.matches("got 2199023255552").count(), 2, "{}", verified.stdout);
}

#[test]
fn if_all_checkpoints_are_damaged_resuming_fails() {
    let (sandbox, _) = trained();
    for step in checkpoints(&sandbox, "whole") {
        sandbox.write(&format!("whole/checkpoints/step-{step:06}/state.json"), "{}");
    }
    let outcome = sandbox.run("train --resume whole");
    assert_eq!(outcome.code, Some(4), "{}", outcome.stderr);
    // There is none before the oldest.
    assert_eq!(outcome.stderr.matches("trying the checkpoint before").count(), 2);
    assert!(
        outcome
            .stderr
            .contains("error: whole/checkpoints/step-000032/state.json: expected SHA-256"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("hint: all checkpoints of this run are damaged"),
        "{}",
        outcome.stderr
    );
    // The files are still there.
    assert_eq!(checkpoints(&sandbox, "whole"), [32, 36, 40]);
    let verified = sandbox.run("verify whole");
    assert_eq!(verified.code, Some(4), "{}", verified.stderr);
    assert_eq!(verified.stdout.matches("BAD").count(), 3, "{}", verified.stdout);
}

/// The run resumes from its newest checkpoint, and keeps every valid line of the metrics.
#[test]
fn damaged_or_missing_metrics_lose_records_but_not_the_run() {
    let (sandbox, whole) = trained();
    let lines = String::from_utf8(sandbox.read("whole/metrics.jsonl")).unwrap();
    let state = sandbox.read("whole/checkpoints/step-000032/state.json");
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let vouched = state["metrics"]["bytes"].as_u64().unwrap() as usize;
    let lost = lines[..vouched].lines().count();
    let changed = |at: usize| {
        let mut bytes = lines.clone().into_bytes();
        bytes[at] ^= 1;
        Some(bytes)
    };
    for (metrics, verified, lost) in
        [(None, 0, None), (changed(0), 0, Some(0)), (changed(vouched), vouched, Some(lost))]
    {
        copy(&sandbox.path("whole"), &sandbox.path("run"));
        match &metrics {
            None => fs::remove_file(sandbox.path("run/metrics.jsonl")).unwrap(),
            Some(bytes) => sandbox.write("run/metrics.jsonl", bytes),
        }
        if metrics.is_some() {
            // Also while the run is not finished.
            fs::remove_dir_all(sandbox.path("run/checkpoints/step-000040")).unwrap();
        }
        let checked = sandbox.run("verify run --files-only");
        assert_eq!(checked.code, Some(4), "{}", checked.stderr);
        assert!(checked.stdout.contains("expected to begin with"), "{}", checked.stdout);
        let said = sandbox.run("train --resume run").succeeded().stderr;
        assert!(said.contains(&format!("{verified} of them verified")), "{said}");
        let now = outcome(&sandbox, "run");
        assert_eq!((&now.model, &now.best), (&whole.model, &whole.best));
        let mut expected = whole.metrics.clone();
        match lost {
            None => expected.clear(),
            Some(line) => drop(expected.remove(line)),
        }
        assert_eq!(now.metrics, expected);
        assert_eq!(fs::read(sandbox.path("run/metrics-aside.jsonl")).ok(), metrics);
        // From now on it is undamaged.
        sandbox.run("verify run --files-only").succeeded();
        let said = sandbox.run("train --resume run").succeeded().stderr;
        assert!(!said.contains("metrics.jsonl"), "{said}");
        if metrics.is_some() {
            sandbox.run("compare run whole").succeeded();
        }
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

#[test]
fn a_changed_or_missing_best_epoch_is_found() {
    let (sandbox, _) = trained();
    let verified = sandbox.run("verify whole --files-only").succeeded().stdout;
    assert!(verified.contains("unchanged since the newest checkpoint"), "{verified}");
    let mut best = sandbox.read("whole/best.safetensors");
    *best.last_mut().unwrap() ^= 1;
    sandbox.write("whole/best.safetensors", best);
    let changed = sandbox.run("verify whole --files-only");
    assert_eq!(changed.code, Some(4), "{}", changed.stderr);
    assert!(changed.stdout.contains("BAD  best.safetensors"), "{}", changed.stdout);
    fs::remove_file(sandbox.path("whole/best.safetensors")).unwrap();
    let removed = sandbox.run("verify whole --files-only");
    assert!(removed.stdout.contains("BAD  best.safetensors"), "{}", removed.stdout);
    // In a run with steps after its newest checkpoint, but no better epoch.
    fs::remove_dir_all(sandbox.path("whole/checkpoints/step-000040")).unwrap();
    sandbox.write("whole/best.safetensors", b"");
    let earlier = sandbox.run("verify whole --files-only --json").stdout;
    let earlier: Vec<serde_json::Value> = serde_json::from_str(&earlier).unwrap();
    let best = earlier.iter().find(|part| part["part"] == "best.safetensors").unwrap();
    assert_eq!(best["sound"], false, "{best}");
}

/// Changed settings change the parameters after the first steps.
#[test]
fn verify_repeats_the_first_steps() {
    let (sandbox, _) = trained();
    let verified = sandbox.run("verify whole").succeeded();
    assert!(verified.stdout.contains("10 steps repeated, bit-identical"), "{}", verified.stdout);
    let parts = sandbox.run("verify whole --json").succeeded().json();
    assert!(parts.as_array().unwrap().iter().all(|part| part["sound"] == true), "{parts}");
    let empty = Sandbox::new();
    empty.write("run/notes", "");
    let refusal = empty.refuses(4, "verify run");
    refusal.saying(&["run/config.toml"]);
}
