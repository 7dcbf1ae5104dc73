//! The first run of a newcomer: no data, no network, no settings.

use std::time::{Duration, Instant};

use crate::support::Sandbox;

/// Generous for a slow machine, tolerable for someone who waits for a first result.
const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn without_data_or_network_training_uses_digits_and_warns_at_start_and_end() {
    let sandbox = Sandbox::new();
    let begun = Instant::now();
    let outcome = sandbox.run("train --max-steps 20").succeeded();
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let fallback =
        |line: &&str| line.starts_with("warning: MNIST is neither present nor reachable");
    let said = lines.iter().position(fallback).expect("a warning");
    let begins = lines.iter().position(|line| line.starts_with("training ")).expect("a beginning");
    assert!(said < begins, "{}", outcome.stderr);
    assert!(lines.last().is_some_and(fallback), "{}", outcome.stderr);
    assert!(!lines.iter().any(|line| line.starts_with("error")), "{}", outcome.stderr);
    // One warning, whatever the number of mirrors.
    let warnings = lines.iter().filter(|line| line.starts_with("warning: ")).count();
    assert_eq!(warnings, 2, "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("dataset         digits (built in, not MNIST)\n"));
    assert!(sandbox.path("runs/digits-shallow-1/model.safetensors").exists());
}

#[test]
fn the_json_result_names_the_digits() {
    let result = Sandbox::new().run("train --max-steps 1 --json").succeeded().json();
    assert_eq!(result["dataset"], "digits");
    assert_eq!(result["preset"], "shallow");
    assert_eq!(result["run"], "runs/digits-shallow-1");
}

#[test]
fn requested_mnist_is_never_replaced() {
    let refusal = Sandbox::new().refuses(3, "train --dataset mnist");
    assert!(refusal.hint.contains("VIT_DATA"), "{refusal:?}");
    refusal.saying(&["train-images-idx3-ubyte"]);
}
