//! Fine-tuning: initial models and frozen parameters.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::files::test_file;
use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, json_lines, timeless};

/// Tolerance of a loss, and of a parameter relative to its largest entry.
const TOLERANCE: f64 = 1e-4;

/// A sandbox with timm's model for colour pictures of 7 classes, and grey pictures of this size in 10 classes.
fn sandbox(size: u32) -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::copy(test_file("fixtures/finetune.safetensors"), sandbox.path("timm.safetensors"))
        .unwrap();
    let pictures = IdxFolder { train: 160, height: size, width: size, ..IdxFolder::default() };
    pictures.write(&sandbox, "pictures");
    sandbox
}

fn tensors(sandbox: &Sandbox, file: &str) -> BTreeMap<String, Vec<f32>> {
    let tensors = candle_core::safetensors::load(sandbox.path(file), &Device::Cpu).unwrap();
    let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    tensors.into_iter().map(|(name, tensor)| (name, values(tensor))).collect()
}

/// From the same weights, twenty steps give timm's losses.
#[test]
fn twenty_losses_equal_timms() {
    let json = std::fs::read_to_string(test_file("fixtures/finetune.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    for case in json["cases"].as_array().unwrap() {
        let sandbox = sandbox(case["size"].as_u64().unwrap() as u32);
        let recipe = "--lr 0.001 --weight-decay 0.05 --batch-size 8 --no-shuffle --max-steps 20 --log-every 1";
        let flags = case["flags"].as_str().unwrap();
        sandbox
            .run(&format!(
                "train --dataset pictures --init timm.safetensors {recipe} {flags} --run-dir run"
            ))
            .succeeded();
        let records = json_lines(sandbox.read("run/metrics.jsonl"));
        let got: Vec<f64> = records.iter().filter_map(|record| record["loss"].as_f64()).collect();
        let want: Vec<f64> = serde_json::from_value(case["losses"].clone()).unwrap();
        assert_eq!(got.len(), want.len(), "{}", case["name"]);
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(
                (got - want).abs() <= TOLERANCE,
                "{}: loss {step}: {got}, timm's {want}",
                case["name"]
            );
        }
    }
}

/// Frozen parameters keep every bit, and are in the model and the checkpoints.
#[test]
fn frozen_parameters_do_not_change() {
    let sandbox = sandbox(28);
    let words = "train --dataset pictures --init timm.safetensors --batch-size 8 --max-steps 4";
    sandbox.run(&format!("{words} --lr 0 --run-dir start")).succeeded();
    let start = tensors(&sandbox, "start/model.safetensors");
    for (freeze, is_frozen) in [
        ("all", (|name| !name.starts_with("head.")) as fn(&str) -> bool),
        ("1", |name| {
            name.starts_with("blocks.0.") || name.contains("embed") || name == "cls_token"
        }),
    ] {
        let run = format!("frozen-{freeze}");
        sandbox
            .run(&format!("{words} --freeze {freeze} --save-every 2 --run-dir {run}"))
            .succeeded();
        for file in ["model.safetensors", "checkpoints/step-000002/model.safetensors"] {
            let end = tensors(&sandbox, &format!("{run}/{file}"));
            assert_eq!(end.len(), start.len());
            for (name, value) in &start {
                let is_same = *value == end[name];
                assert_eq!(is_same, is_frozen(name), "{name} of {run}/{file}");
            }
        }
        sandbox.run(&format!("verify {run}")).succeeded();
        sandbox.run(&format!("train --resume {run} --max-steps 6")).succeeded();
        let longer = tensors(&sandbox, &format!("{run}/model.safetensors"));
        assert!(start.iter().all(|(name, value)| !is_frozen(name) || *value == longer[name]));
    }
}

/// A run, its checkpoint, its file and a timm folder start from the same model.
#[test]
fn training_can_start_from_every_model_that_info_reads() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--preset notebook --max-steps 2");
    let mut models = Vec::new();
    for (index, init) in
        ["run", "run/checkpoints/last", "run/model.safetensors"].into_iter().enumerate()
    {
        let words =
            format!("train --dataset digits --init {init} --max-steps 1 --run-dir r{index}");
        let log = sandbox.run(&words).succeeded().stderr;
        assert!(log.contains(&format!("started from {init}")), "{log}");
        assert!(log.contains("training notebook"), "{log}");
        models.push(sandbox.read(&format!("r{index}/model.safetensors")));
    }
    assert!(models.iter().all(|model| *model == models[0]));
    sandbox.run("train --config r0/config.toml --run-dir again").succeeded();
    assert!(sandbox.read("again/model.safetensors") == models[0]);
}

#[test]
fn unsuitable_initial_models_are_rejected_in_one_line() {
    let sandbox = sandbox(28);
    sandbox.train_digits("--max-steps 1");
    let of_bert = [("bert.pooler.dense.bias", Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap())];
    candle_core::safetensors::save(&HashMap::from(of_bert), sandbox.path("bert.safetensors"))
        .unwrap();
    for (code, flags, says) in [
        (
            2,
            "--init timm.safetensors --freeze 99",
            "expected freeze of at most 3, the model's number of blocks, got 99",
        ),
        (2, "--init timm.safetensors --layer-decay 0", "expected layer_decay in (0, 1], got 0"),
        (2, "--init timm.safetensors --preset shallow", "with another activation"),
        (2, "--new-head", "--new-head needs a model to start from"),
        (4, "--init absent", "cannot read absent"),
        (4, "--init pictures", "cannot read pictures/config.toml"),
        (4, "--init bert.safetensors", "of no known layout (timm, hf or notebook)"),
        (2, "--init run --run-dir run", "run directory run already exists"),
    ] {
        sandbox.refuses(code, &format!("train --dataset pictures {flags}")).saying(&[says]);
    }
    IdxFolder { height: 30, width: 30, ..IdxFolder::default() }.write(&sandbox, "odd");
    sandbox
        .refuses(2, "train --dataset odd --init timm.safetensors")
        .saying(&["image of 30x30 px is not divisible by patch of 7x7 px"]);
}

/// Before `[finetune]` existed, files had `init` at the top level.
#[test]
fn old_files_with_init_are_read() {
    let sandbox = sandbox(28);
    sandbox.write("old.toml", "init = 'timm.safetensors'\ndataset = 'pictures'\n");
    let log = sandbox
        .run("train --config old.toml --batch-size 8 --max-steps 1 --run-dir run")
        .succeeded();
    assert!(log.stderr.contains("started from timm.safetensors"), "{}", log.stderr);
    let config = String::from_utf8(sandbox.read("run/config.toml")).unwrap();
    assert!(config.contains("[finetune]\ninit = \"timm.safetensors\"\n"), "{config}");
}

/// A run trained in three parts, with different learning rates and augmentation, equals one run from a file with these
/// changes.
#[test]
fn a_run_in_parts_equals_one_run_with_changes() {
    let sandbox = Sandbox::new();
    IdxFolder { train: 60, ..IdxFolder::default() }.write(&sandbox, "tiny");
    let recipe =
        "[train]\nepochs = 2\nbatch_size = 9\nlog_every = 1\n[train.optimizer]\nlr = 0.01\n";
    let settings =
        format!("dataset = 'tiny'\nval_split = 0.1\n{recipe}[train.schedule]\nkind = 'cosine'\n");
    sandbox.write("base.toml", &settings);
    sandbox.run("train --config base.toml --run-dir pieces").succeeded();
    // Six steps an epoch: the second part stops in the middle of an epoch.
    let first = "--epochs 4 --max-steps 20 --lr 0.004 --augment-shift 2 --keep 9";
    sandbox.run(&format!("train --resume pieces {first}")).succeeded();
    sandbox.run("train --resume pieces --max-steps 30 --epochs 6 --warmup 25").succeeded();
    let changes = "\
[[changes]]
from_step = 12
epochs = 4
max_steps = 20
lr = 0.004
[changes.augment]
shift = 2.0
[[changes]]
from_step = 20
epochs = 6
max_steps = 30
[changes.schedule]
kind = 'cosine'
warmup = 25
";
    sandbox.write("one.toml", format!("{settings}{changes}"));
    sandbox.run("train --config one.toml --run-dir one").succeeded();
    for name in ["model.safetensors", "best.safetensors", "checkpoints/last/state.safetensors"] {
        let is_same =
            sandbox.read(&format!("pieces/{name}")) == sandbox.read(&format!("one/{name}"));
        assert!(is_same, "{name} differs");
    }
    let metrics = |run: &str| timeless(&sandbox.read(&format!("{run}/metrics.jsonl")));
    assert_eq!(metrics("pieces"), metrics("one"));
    sandbox.run("verify pieces").succeeded();
    let report = String::from_utf8(sandbox.read("pieces/report.html")).unwrap();
    assert!(report.contains("after step 20."), "{report}");
    assert!(sandbox.read("pieces/config.toml") == sandbox.read("one/config.toml"));
}

/// The same for a run that was interrupted and resumed with another learning rate.
#[test]
fn a_change_within_an_epoch_equals_one_run_with_it() {
    let sandbox = Sandbox::new();
    IdxFolder { train: 60, ..IdxFolder::default() }.write(&sandbox, "tiny");
    let settings = "dataset = 'tiny'\n[train]\nepochs = 3\nbatch_size = 9\nlog_every = 1\n";
    let change = |from: u64| format!("[[changes]]\nfrom_step = {from}\nlr = 0.002\n");
    sandbox.write("one.toml", format!("{settings}{}", change(8)));
    sandbox.run("train --config one.toml --save-every 1 --keep 99 --run-dir one").succeeded();
    // The state after an interruption in step 8: that checkpoint is the newest.
    sandbox.run("train --config one.toml --save-every 1 --keep 99 --run-dir pieces").succeeded();
    for step in 9..=18 {
        let checkpoint = sandbox.path(format!("pieces/checkpoints/step-{step:06}"));
        std::fs::remove_dir_all(checkpoint).unwrap();
    }
    std::fs::remove_file(sandbox.path("pieces/model.safetensors")).unwrap();
    let without = String::from_utf8(sandbox.read("pieces/config.toml")).unwrap();
    let at = without.find("[[changes]]").unwrap();
    sandbox.write("pieces/config.toml", without[..at].trim_end().to_owned() + "\n");
    sandbox.run("train --resume pieces --lr 0.002 --keep 99").succeeded();
    for name in ["model.safetensors", "checkpoints/last/state.safetensors"] {
        let is_same =
            sandbox.read(&format!("pieces/{name}")) == sandbox.read(&format!("one/{name}"));
        assert!(is_same, "{name} differs");
    }
    let metrics = |run: &str| timeless(&sandbox.read(&format!("{run}/metrics.jsonl")));
    assert_eq!(metrics("pieces"), metrics("one"));
}

#[test]
fn a_run_continues_only_if_steps_are_left() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 6");
    let before = sandbox.read("run/config.toml");
    for (flags, says, hint) in [
        ("--lr 0.1", "is complete: it has taken all 6 steps", "--max-steps"),
        ("--epochs 30", "is complete: it has taken all 6 steps", "--max-steps"),
        ("--max-steps 9 --warmup 4", "expected a warm-up of more than the 6 steps", ""),
        ("--max-steps 9 --augment-mixup 0.2", "mixup cannot be turned on or off", ""),
    ] {
        let refused = sandbox.refuses(2, &format!("train --resume run {flags}")).saying(&[says]);
        assert!(refused.hint.contains(hint), "{refused:?}");
    }
    assert!(sandbox.read("run/config.toml") == before);
    for flag in ["--batch-size 9", "--seed 1", "--dropout 0", "--init run", "--freeze all"] {
        let refused = sandbox.run(&format!("train --resume run {flag}"));
        assert_eq!(refused.code, Some(2), "{flag}: {}", refused.stderr);
        assert!(refused.stderr.contains("a resumed run keeps this setting"), "{}", refused.stderr);
    }
}
