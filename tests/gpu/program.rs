//! The program on a GPU.

use serde_json::Value;

use crate::support::{Sandbox, json_lines, timeless};

/// The program built with these tests; `VIT_BINARY` is its path on another machine.
fn sandbox() -> Sandbox {
    let vit = std::env::var_os("VIT_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_vit").into());
    // The path of CUDA's libraries.
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    Sandbox::of(vit.into(), vec![("LD_LIBRARY_PATH", libraries)])
}

fn accuracy(sandbox: &Sandbox, model: &str, device: &str) -> f64 {
    let words = format!("eval {model} --dataset digits --device {device} --json");
    sandbox.run(&words).succeeded().json()["accuracy"].as_f64().expect("an accuracy")
}

#[test]
fn the_gpu_is_used_by_default_and_logged() {
    let sandbox = sandbox();
    let log = sandbox.train_digits("--max-steps 3").stderr;
    assert!(log.contains("computing on cuda:0, "), "{log}");
    let environment: Value = serde_json::from_slice(&sandbox.read("run/env.json")).unwrap();
    assert!(environment["device"].as_str().unwrap().starts_with("cuda:0, "), "{environment}");
}

#[test]
fn models_move_between_devices() {
    let sandbox = sandbox();
    for (device, other) in [("cuda", "cpu"), ("cpu", "cuda")] {
        let run = |name: &str, device: &str, words: &str| {
            let words =
                format!("train --dataset digits --run-dir {name} --device {device} {words}");
            sandbox.run(&words).succeeded();
        };
        run(device, device, "--epochs 2 --lr 0.002");
        let here = accuracy(&sandbox, device, device);
        assert!(here > 0.5, "{device}: {here}");
        // Of 2,000 images, two may be close to a decision boundary.
        assert!((accuracy(&sandbox, device, other) - here).abs() <= 1e-3, "{device}");
        let further = format!("{device}-further");
        let words = format!("--epochs 1 --lr 0.002 --init {device}/model.safetensors");
        run(&further, other, &words);
        assert!(accuracy(&sandbox, &further, other) > here - 0.02, "{device}");
    }
}

/// From a checkpoint within an epoch: bit-identical on the same GPU, and possible on the other device.
#[test]
fn runs_resume_from_checkpoints_of_either_device() {
    for (device, other) in [("cuda", "cpu"), ("cpu", "cuda")] {
        let sandbox = sandbox();
        let train = "train --dataset digits --max-steps 200 --ema 0.9 --save-every 50 --keep 9";
        sandbox.run(&format!("{train} --device {device} --run-dir run")).succeeded();
        let model = sandbox.read("run/model.safetensors");
        let whole = timeless(&sandbox.read("run/metrics.jsonl"));
        let here = accuracy(&sandbox, "run", device);
        let back = || {
            for later in [100, 150, 200] {
                let path = sandbox.path(format!("run/checkpoints/step-{later:06}"));
                std::fs::remove_dir_all(path).unwrap();
            }
        };
        back();
        sandbox
            .run(&format!("train --resume run --save-every 50 --keep 9 --device {device}"))
            .succeeded();
        assert!(sandbox.read("run/model.safetensors") == model, "{device}: other bits");
        let losses = |records: &[Value]| -> Vec<f64> {
            records.iter().filter_map(|record| record["loss"].as_f64()).collect()
        };
        let again = timeless(&sandbox.read("run/metrics.jsonl"));
        assert_eq!(again.len(), whole.len(), "{device}");
        // Sums from the GPU before a checkpoint are added to the rest on the CPU.
        for (loss, expected) in losses(&again).into_iter().zip(losses(&whole)) {
            assert!((loss - expected).abs() < 1e-9, "{device}: {loss} {expected}");
        }
        back();
        sandbox.run(&format!("train --resume run --device {other}")).succeeded();
        let there = accuracy(&sandbox, "run", other);
        assert!((there - here).abs() < 0.02, "{device} and {other}: {here} {there}");
    }
}

#[test]
fn augmentation_and_validation_equal_the_cpus() {
    let sandbox = sandbox();
    sandbox.write("recipe.toml", "[augment]\nshift = 2.0\nrotation = 10.0\n");
    let last = |device: &str, words: &str| {
        let run = format!("{device}-{}", words.len());
        let train = "train --dataset digits --max-steps 20 --val-split 0.2 --log-every 1";
        let words = format!("{train} --device {device} --run-dir {run} {words}");
        sandbox.run(&words).succeeded();
        let lines = json_lines(sandbox.read(&format!("{run}/metrics.jsonl")));
        let number = |line: &Value, name: &str| line[name].as_f64().expect("a number");
        let loss = lines.iter().rfind(|line| line["kind"] == "step");
        let epoch = lines.last().expect("an epoch");
        (number(loss.expect("a step"), "loss"), number(epoch, "val_loss"))
    };
    for words in ["", "--config recipe.toml"] {
        let ((loss, val_loss), (cpu_loss, cpu_val_loss)) =
            (last("cuda", words), last("cpu", words));
        assert!((loss - cpu_loss).abs() < 1e-3, "{words}: {loss} {cpu_loss}");
        assert!((val_loss - cpu_val_loss).abs() < 1e-3, "{words}: {val_loss} {cpu_val_loss}");
    }
}

#[test]
fn mixup_is_rejected() {
    let sandbox = sandbox();
    let refusal = sandbox.refuses(2, "train --dataset digits --augment-mixup 0.2 --device cuda");
    assert!(refusal.hint.contains("--device cpu"), "{refusal:?}");
    refusal.saying(&["mixup", "GPU"]);
}

#[test]
fn a_batch_too_large_for_memory_is_named() {
    let sandbox = sandbox();
    // The attention weights alone would take 787 GB.
    let wide = "[model]\nheads = 32\n[model.patch]\nheight = 1\nwidth = 1\n";
    sandbox.write("wide.toml", wide);
    let words = "train --dataset digits --config wide.toml --batch-size 10000 --device cuda";
    let outcome = sandbox.run(words);
    assert_eq!(outcome.code, Some(6), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("10000") || outcome.stderr.contains("10,000"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("--batch-size"), "{}", outcome.stderr);
}

#[test]
fn a_diverging_run_ends_with_code_5() {
    let sandbox = sandbox();
    let words = "train --dataset digits --run-dir run --lr 1e30 --device cuda";
    let outcome = sandbox.run(words);
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("expected a finite"), "{}", outcome.stderr);
}
