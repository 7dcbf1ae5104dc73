//! The validation split: held out from training, and used to choose the best epoch.

use serde_json::Value;

use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, json_lines, timeless};

fn epochs(metrics: &[u8]) -> Vec<Value> {
    json_lines(metrics).into_iter().filter(|record| record["kind"] == "epoch").collect()
}

#[test]
fn the_best_epoch_has_the_highest_validation_accuracy_and_its_weights_are_saved() {
    let sandbox = Sandbox::new();
    let words = "--epochs 4 --batch-size 100 --lr 0.01 --dropout 0 --val-split 0.2 --json";
    let result = sandbox.train_digits(words).json();
    let epochs = epochs(&sandbox.read("run/metrics.jsonl"));
    let accuracy = |epoch: &Value| epoch["val_accuracy"].as_f64().unwrap();
    // 8,000 of 10,000 images remain.
    assert_eq!(epochs[3]["step"], 4 * 80);
    let most = epochs.iter().map(accuracy).fold(0.0, f64::max);
    let best = &epochs[result["best_epoch"].as_u64().unwrap() as usize - 1];
    assert_eq!(accuracy(best), most);
    // The accuracy on 2,000 images is a multiple of 1/2000.
    assert!(((most * 2000.0).round() / 2000.0 - most).abs() < 1e-12, "{most}");
    let eval = sandbox.run("eval run/best.safetensors --dataset digits --json").succeeded().json();
    assert_eq!(eval["accuracy"], best["test_accuracy"]);
    assert_eq!(result["best_test_accuracy"], best["test_accuracy"]);
}

#[test]
fn early_stopping_ends_a_run_without_progress_and_repeats() {
    let sandbox = Sandbox::new();
    // Nothing is learned, so no epoch is better than the first.
    IdxFolder { train: 200, ..IdxFolder::default() }.write(&sandbox, "images");
    let words = "--epochs 9 --batch-size 50 --lr 0 --val-split 0.1 --patience 2";
    sandbox.run(&format!("train --dataset images --run-dir run {words}")).succeeded();
    let metrics = sandbox.read("run/metrics.jsonl");
    assert_eq!(epochs(&metrics).len(), 3);
    sandbox.run("train --config run/config.toml --threads 3 --run-dir again").succeeded();
    assert_eq!(timeless(&sandbox.read("again/metrics.jsonl")), timeless(&metrics));
    assert_eq!(sandbox.read("again/best.safetensors"), sandbox.read("run/best.safetensors"));
}

#[test]
fn without_validation_there_is_no_best() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    assert!(!sandbox.path("run/best.safetensors").exists());
}
