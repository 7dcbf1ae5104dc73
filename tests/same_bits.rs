//! Same seed, same bits, whatever the number of threads.

use serde_json::Value;

use crate::support::{Sandbox, timeless};

/// Dropout stays on, and batches of 50 are cut into shards of unequal size.
fn model_and_metrics(preset: &str, words: &str) -> (Vec<u8>, Vec<Value>) {
    let sandbox = Sandbox::new();
    sandbox.train_digits(&format!(
        "--preset {preset} --max-steps 30 --batch-size 50 --log-every 7 {words}"
    ));
    (sandbox.read("run/model.safetensors"), timeless(&sandbox.read("run/metrics.jsonl")))
}

#[test]
fn threads_do_not_show_in_model_or_metrics() {
    for preset in ["notebook", "shallow"] {
        let one = model_and_metrics(preset, "--threads 1");
        for threads in [2, 3, 4] {
            let more = model_and_metrics(preset, &format!("--threads {threads}"));
            assert!(one == more, "{preset}: {threads} threads give other bits than 1");
        }
    }
}

#[test]
fn another_seed_gives_another_model() {
    let (zero, _) = model_and_metrics("shallow", "");
    let (one, _) = model_and_metrics("shallow", "--seed 1");
    assert!(zero != one);
}
