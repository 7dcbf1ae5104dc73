//! Schedules, parameter groups, gradient clipping and SGD agree with PyTorch; a recipe's settings repeat its run.
//!
//! `tests/reference/recipe_fixtures.py` writes the fixture.

use std::fs;

use candle_core::{DType, Device, Result, Tensor, Var};
use serde_json::Value;
use vit_train::{Decay, Group, NamedVars, Optimizer, OptimizerConfig, Schedule, clip_gradients};

use crate::files::test_file;
use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, json_lines, timeless};

/// Tolerance for the same formula in `f64` with another order of operations.
const TOLERANCE: f64 = 1e-12;

fn fixture() -> Value {
    let text = fs::read_to_string(test_file("fixtures/recipe.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Nested numbers as a flat list.
fn flat(values: &Value) -> Vec<f64> {
    match values.as_array() {
        Some(values) => values.iter().flat_map(flat).collect(),
        None => vec![values.as_f64().unwrap()],
    }
}

fn shape(values: &Value) -> Vec<usize> {
    let inner = values.as_array().map(|values| (values.len(), shape(&values[0])));
    inner.map_or_else(Vec::new, |(len, mut inner)| {
        inner.insert(0, len);
        inner
    })
}

fn tensor(values: &Value) -> Result<Tensor> {
    Tensor::from_vec(flat(values), shape(values), &Device::Cpu)
}

#[test]
fn learning_rates_equal_pytorchs() {
    for case in fixture()["schedules"].as_array().unwrap() {
        let schedule: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
        let (lr, rates) = (case["lr"].as_f64().unwrap(), flat(&case["rates"]));
        for (step, want) in (1..).zip(&rates) {
            let got = schedule.lr(lr, step, rates.len() as u64);
            assert!(
                (got - want).abs() <= TOLERANCE * lr,
                "{schedule:?}, step {step}: {got} {want}"
            );
        }
    }
}

#[test]
fn weight_decay_groups_and_clipping_equal_pytorchs() -> Result<()> {
    let fixture = &fixture()["groups"];
    let number = |key: &str| fixture[key].as_f64().unwrap();
    let initial = fixture["initial"].as_object().unwrap();
    let parameters = initial
        .iter()
        .map(|(name, values)| Ok((name.clone(), Var::from_tensor(&tensor(values)?)?)));
    let parameters = parameters.collect::<Result<NamedVars>>()?;
    let config = OptimizerConfig::adamw(number("lr"), number("weight_decay"));
    let config = OptimizerConfig { decay: Decay::Matrices, ..config };
    let groups = |name: &str, _: &Tensor| match name {
        "pos_embed" => Group::new().with_weight_decay(0.0),
        _ => Group::new(),
    };
    let mut optimizer = Optimizer::with_groups(config, &parameters, groups).unwrap();
    let mut cut = 0;
    for step in fixture["steps"].as_array().unwrap() {
        let gradients = parameters.iter().map(|(name, _)| tensor(&step["gradients"][name]));
        let mut gradients = gradients.collect::<Result<Vec<_>>>()?;
        let norm = clip_gradients(&mut gradients, number("clip"))?;
        assert!((norm - step["norm"].as_f64().unwrap()).abs() <= TOLERANCE * norm);
        cut += usize::from(norm > number("clip"));
        optimizer.step(&gradients)?;
    }
    assert!((1..10).contains(&cut), "of ten gradients {cut} were cut");
    for (name, var) in &parameters {
        let got = var.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        for (got, want) in got.iter().zip(flat(&fixture["final"][name])) {
            assert!((got - want).abs() <= TOLERANCE, "{name}: {got} {want}");
        }
    }
    Ok(())
}

#[test]
fn sgd_steps_equal_pytorchs() -> Result<()> {
    let fixture = fixture();
    let cases = fixture["sgd"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let config: OptimizerConfig = serde_json::from_value(case["optimizer"].clone()).unwrap();
        let initial = case["initial"].as_object().unwrap().iter();
        let parameters = initial
            .map(|(name, values)| Ok((name.clone(), Var::from_tensor(&tensor(values)?)?)))
            .collect::<Result<NamedVars>>()?;
        let groups = |name: &str, _: &Tensor| match name {
            "head" => Group::new().with_lr_scale(2.0).with_weight_decay(0.0),
            _ => Group::new(),
        };
        let mut optimizer = Optimizer::with_groups(config, &parameters, groups).unwrap();
        for gradients in case["steps"].as_array().unwrap() {
            let gradients = parameters.iter().map(|(name, _)| tensor(&gradients[name]));
            optimizer.step(&gradients.collect::<Result<Vec<_>>>()?)?;
        }
        for (name, var) in &parameters {
            let got = var.flatten_all()?.to_vec1::<f64>()?;
            for (got, want) in got.iter().zip(flat(&case["final"][name])) {
                assert!((got - want).abs() <= TOLERANCE, "{config:?} {name}: {got} {want}");
            }
        }
    }
    Ok(())
}

const RECIPE: &str = "--max-steps 30 --batch-size 20 --accumulate 2 --log-every 1 --schedule cosine --warmup 5 \
                      --min-lr 1e-5 --lr 1e-3 --weight-decay 0.05 --clip 1 --label-smoothing 0.1 --ema 0.9";

#[test]
fn a_recipe_repeats_from_its_settings_on_any_number_of_threads() {
    let sandbox = Sandbox::new();
    sandbox.train_digits(&format!("{RECIPE} --threads 1"));
    sandbox.run("train --config run/config.toml --threads 3 --run-dir again").succeeded();
    for file in ["config.toml", "model.safetensors"] {
        assert_eq!(
            sandbox.read(format!("run/{file}").as_str()),
            sandbox.read(format!("again/{file}").as_str())
        );
    }
    let metrics = sandbox.read("run/metrics.jsonl");
    assert_eq!(timeless(&sandbox.read("again/metrics.jsonl")), timeless(&metrics));
    let steps = json_lines(metrics);
    let rate = |index: usize| steps[index]["lr"].as_f64().unwrap();
    assert_eq!((rate(0), rate(4), rate(5)), (2e-4, 1e-3, 1e-3));
    assert!(rate(29) < 2e-5 && rate(29) > 1e-5, "{}", rate(29));
}

#[test]
fn augmentation_repeats_from_its_settings_on_any_number_of_threads() {
    let sandbox = Sandbox::new();
    sandbox.write("c.toml", "[augment]\nshift = 2\nrotation = 10.0\nelastic = 1.0\nerase = 0.2\n");
    sandbox.train_digits("--config c.toml --max-steps 30 --threads 1");
    sandbox.run("train --config run/config.toml --threads 3 --run-dir again").succeeded();
    let model = sandbox.read("again/model.safetensors");
    assert_eq!(model, sandbox.read("run/model.safetensors"));
    sandbox.run("train --dataset digits --max-steps 30 --run-dir plain").succeeded();
    assert_ne!(model, sandbox.read("plain/model.safetensors"));
}

#[test]
fn augmentation_flags_equal_settings_and_mixup_repeats() {
    let sandbox = Sandbox::new();
    sandbox.write("c.toml", "[augment]\nrotation = 10.0\nmixup = 0.4\n");
    let words = "--max-steps 30 --log-every 1 --label-smoothing 0.1 --accumulate 2 --val-split 0.1";
    sandbox.train_digits(&format!("--config c.toml {words} --threads 1"));
    let flags = "--augment-rotation 10 --augment-mixup 0.4";
    let by_flags = format!("train --dataset digits {words} {flags} --threads 2 --run-dir flags");
    sandbox.run(&by_flags).succeeded();
    sandbox.run("train --config flags/config.toml --threads 3 --run-dir again").succeeded();
    for run in ["flags", "again"] {
        for file in ["config.toml", "model.safetensors"] {
            let (got, want) = (format!("{run}/{file}"), format!("run/{file}"));
            assert_eq!(sandbox.read(&got), sandbox.read(&want), "{got}");
        }
        let metrics = sandbox.read(&format!("{run}/metrics.jsonl"));
        assert_eq!(timeless(&metrics), timeless(&sandbox.read("run/metrics.jsonl")));
    }
    let without = "train --config run/config.toml --augment-mixup 0 --run-dir without";
    sandbox.run(without).succeeded();
    assert_ne!(sandbox.read("without/model.safetensors"), sandbox.read("run/model.safetensors"));
}

/// With SGD, and with evaluations less often than every epoch.
#[test]
fn resuming_with_sgd_is_bit_identical() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    sandbox.write(
        "c.toml",
        "dataset = 'tiny'\n[train]\nepochs = 3\nevaluate_every = 2\nbatch_size = 8\n[train.optimizer]\nkind = 'sgd'\nlr = 0.1\nmomentum = 0.9\n",
    );
    sandbox.run("train --config c.toml --run-dir run").succeeded();
    let metrics = sandbox.read("run/metrics.jsonl");
    let epochs = json_lines(metrics.clone());
    let tested: Vec<bool> = epochs.iter().map(|epoch| epoch.get("test_loss").is_some()).collect();
    assert_eq!(tested, [false, true, true]);
    let settings = String::from_utf8(sandbox.read("run/config.toml")).unwrap();
    assert!(settings.contains("kind = \"sgd\"") && settings.contains("evaluate_every = 2"));
    sandbox.run("train --config c.toml --run-dir again --save-every 7").succeeded();
    let last = std::fs::read_link(sandbox.path("again/checkpoints/last")).unwrap();
    std::fs::remove_dir_all(sandbox.path("again/checkpoints").join(last)).unwrap();
    sandbox.run("train --resume again").succeeded();
    assert_eq!(sandbox.read("again/model.safetensors"), sandbox.read("run/model.safetensors"));
    assert_eq!(timeless(&sandbox.read("again/metrics.jsonl")), timeless(&metrics));
}

/// The saved model is the one that the epoch's metrics describe.
#[test]
fn the_averaged_weights_are_saved() {
    let sandbox = Sandbox::new();
    let result = sandbox.train_digits("--max-steps 60 --lr 2e-3 --ema 0.95 --json").json();
    let eval = sandbox.run("eval run --dataset digits --json").succeeded().json();
    assert_eq!(eval["accuracy"], result["test_accuracy"]);
    let plain = Sandbox::new();
    plain.train_digits("--max-steps 60 --lr 2e-3");
    assert_ne!(plain.read("run/model.safetensors"), sandbox.read("run/model.safetensors"));
}
