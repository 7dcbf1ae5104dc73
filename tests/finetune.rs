//! Fine-tuning: what a run begins with, and what of it is trained.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::files::test_file;
use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, json_lines, timeless};

/// Of a loss, and of a parameter's largest entry.
const TOLERANCE: f64 = 1e-4;

/// A sandbox with timm's model for colour pictures of 7 classes, and grey pictures of 10 classes of this size.
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
fn twenty_losses_are_those_of_timm() {
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

/// Frozen parameters keep every bit, and stand in the model and its checkpoints.
#[test]
fn frozen_parameters_stay_as_they_were() {
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
    }
}

/// A run, its checkpoint, its file and a folder that names timm's architecture begin with the same model.
#[test]
fn whatever_info_reads_can_be_begun_with() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--preset notebook --max-steps 2");
    let mut models = Vec::new();
    for (index, init) in
        ["run", "run/checkpoints/last", "run/model.safetensors"].into_iter().enumerate()
    {
        let words =
            format!("train --dataset digits --init {init} --max-steps 1 --run-dir r{index}");
        let log = sandbox.run(&words).succeeded().stderr;
        assert!(log.contains(&format!("began with {init}")), "{log}");
        assert!(log.contains("training notebook"), "{log}");
        models.push(sandbox.read(&format!("r{index}/model.safetensors")));
    }
    assert!(models.iter().all(|model| *model == models[0]));
    sandbox.run("train --config r0/config.toml --run-dir again").succeeded();
    assert!(sandbox.read("again/model.safetensors") == models[0]);
}

#[test]
fn what_cannot_be_begun_with_is_refused_in_a_line() {
    let sandbox = sandbox(28);
    for (code, flags, says) in [
        (2, "--init timm.safetensors --freeze 99", "expected freeze of at most 3 blocks"),
        (2, "--init timm.safetensors --layer-decay 0", "expected layer_decay in (0, 1], got 0"),
        (2, "--init timm.safetensors --preset shallow", "with another activation"),
        (2, "--new-head", "expected new_head only with a model to begin with"),
        (4, "--init absent", "cannot read absent"),
        (4, "--init pictures", "cannot read pictures/config.toml"),
    ] {
        sandbox.refuses(code, &format!("train --dataset pictures {flags}")).saying(&[says]);
    }
    IdxFolder { height: 30, width: 30, ..IdxFolder::default() }.write(&sandbox, "odd");
    sandbox
        .refuses(2, "train --dataset odd --init timm.safetensors")
        .saying(&["image of 30x30 px is not divisible by patch of 7x7 px"]);
}

/// Files of before `[finetune]` have `init` at the top.
#[test]
fn an_old_file_with_init_is_read() {
    let sandbox = sandbox(28);
    sandbox.write("old.toml", "init = 'timm.safetensors'\ndataset = 'pictures'\n");
    let log = sandbox
        .run("train --config old.toml --batch-size 8 --max-steps 1 --run-dir run")
        .succeeded();
    assert!(log.stderr.contains("began with timm.safetensors"), "{}", log.stderr);
    let config = String::from_utf8(sandbox.read("run/config.toml")).unwrap();
    assert!(config.contains("[finetune]\ninit = \"timm.safetensors\"\n"), "{config}");
}

/// A run that is trained on in three pieces, with another rate and augmentation, is the run of one file that says the same.
#[test]
fn a_run_in_pieces_is_the_run_of_one_file() {
    let sandbox = Sandbox::new();
    IdxFolder { train: 60, ..IdxFolder::default() }.write(&sandbox, "tiny");
    let recipe =
        "[train]\nepochs = 2\nbatch_size = 9\nlog_every = 1\n[train.optimizer]\nlr = 0.01\n";
    let settings =
        format!("dataset = 'tiny'\nval_split = 0.1\n{recipe}[train.schedule]\nkind = 'cosine'\n");
    sandbox.write("base.toml", &settings);
    sandbox.run("train --config base.toml --run-dir pieces").succeeded();
    // Six steps an epoch: the second piece is broken off by its steps, in the middle of an epoch.
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
    assert!(report.contains("After step 20, the run was trained further with"), "{report}");
    assert!(sandbox.read("pieces/config.toml") == sandbox.read("one/config.toml"));
}

/// So is one that was interrupted and went on with another rate.
#[test]
fn a_change_in_the_middle_of_an_epoch_is_the_same_in_one_run() {
    let sandbox = Sandbox::new();
    IdxFolder { train: 60, ..IdxFolder::default() }.write(&sandbox, "tiny");
    let settings = "dataset = 'tiny'\n[train]\nepochs = 3\nbatch_size = 9\nlog_every = 1\n";
    let change = |from: u64| format!("[[changes]]\nfrom_step = {from}\nlr = 0.002\n");
    sandbox.write("one.toml", format!("{settings}{}", change(8)));
    sandbox.run("train --config one.toml --save-every 1 --keep 99 --run-dir one").succeeded();
    // What an interruption after step 8 leaves: that checkpoint as the newest.
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
fn a_run_is_trained_further_only_where_steps_are_left() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 6");
    let before = sandbox.read("run/config.toml");
    for (flags, says, hint) in [
        ("--lr 0.1", "has taken 6 steps, and none is left", "--max-steps"),
        ("--epochs 30", "has taken 6 steps, and none is left", "--max-steps"),
        ("--max-steps 9 --warmup 4", "expected a warm-up of more than the 6 steps", ""),
        ("--max-steps 9 --augment-mixup 0.2", "mixup cannot begin or end", ""),
    ] {
        let refused = sandbox.refuses(2, &format!("train --resume run {flags}")).saying(&[says]);
        assert!(refused.hint.contains(hint), "{refused:?}");
    }
    assert!(sandbox.read("run/config.toml") == before);
    for flag in ["--batch-size 9", "--seed 1", "--dropout 0", "--init run", "--freeze all"] {
        let refused = sandbox.run(&format!("train --resume run {flag}"));
        assert_eq!(refused.code, Some(2), "{flag}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("this setting holds for a whole run"),
            "{}",
            refused.stderr
        );
    }
}
