//! `vit eval`: its counts are consistent.

use serde_json::Value;

use crate::idx_folder::IdxFolder;
use crate::support::{Sandbox, json_lines};

/// Checks a share; a share of nothing is null. JSON may change the last bit.
#[track_caller]
fn assert_share(got: &Value, part: u64, whole: u64) {
    let want = part as f64 / whole as f64;
    assert!(got.as_f64().map_or(whole == 0, |got| (got - want).abs() < 1e-12), "{got} {want}");
}

fn sum(values: &Value) -> u64 {
    values.as_array().unwrap().iter().map(|value| value.as_u64().unwrap()).sum()
}

#[test]
fn the_confusion_matrix_counts_every_sample_once() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 40");
    let result = sandbox.run("eval run --json").succeeded().json();
    assert_eq!((&result["dataset"], &result["split"]), (&"digits".into(), &"test".into()));
    let rows = result["confusion"].as_array().unwrap();
    assert_eq!(result["samples"], 2000);
    assert_eq!(rows.iter().map(sum).sum::<u64>(), 2000);
    let on_diagonal: u64 =
        rows.iter().enumerate().map(|(class, row)| row[class].as_u64().unwrap()).sum();
    assert_eq!(result["correct"], on_diagonal);
    assert_eq!(result["accuracy"], on_diagonal as f64 / 2000.0);
    for (class, told) in result["classes"].as_array().unwrap().iter().enumerate() {
        let column: u64 = rows.iter().map(|row| row[class].as_u64().unwrap()).sum();
        let correct = told["correct"].as_u64().unwrap();
        assert_eq!((&told["class"], &told["samples"]), (&class.into(), &sum(&rows[class]).into()));
        assert_share(&told["recall"], correct, sum(&rows[class]));
        assert_share(&told["precision"], correct, column);
    }
}

#[test]
fn a_saved_model_evaluates_as_reported_in_training() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--preset notebook --max-steps 10");
    let last = json_lines(sandbox.read("run/metrics.jsonl")).pop().unwrap();
    for model in ["run", "run/model.safetensors"] {
        let result =
            sandbox.run(&format!("eval {model} --dataset digits --json")).succeeded().json();
        assert_eq!(result["accuracy"], last["test_accuracy"], "{model}");
        assert_eq!(result["loss"], last["test_loss"], "{model}");
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 10");
    let with = |threads| sandbox.run(&format!("eval run --json --threads {threads}")).succeeded();
    assert_eq!(with(1).stdout, with(3).stdout);
}

#[test]
fn the_users_own_dataset_is_called_unverified() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    sandbox.run("train --dataset tiny --batch-size 8 --max-steps 1 --run-dir run").succeeded();
    let outcome = sandbox.run("eval run").succeeded();
    let tiny = sandbox.path("tiny");
    let first = format!("dataset   {} (unverified), test images\n", tiny.display());
    assert!(outcome.stdout.starts_with(&first), "{}", outcome.stdout);
    let warning = format!("warning: {} is your own dataset", tiny.display());
    assert!(outcome.stderr.starts_with(&warning), "{}", outcome.stderr);
}

/// One NaN among the parameters is enough.
#[test]
fn a_non_finite_loss_gives_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    assert_eq!(sandbox.run("eval run").succeeded().stderr, "");
    let mut model = sandbox.read("run/model.safetensors");
    let last = model.len() - 4;
    model[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    sandbox.write("none.safetensors", model);
    let outcome = sandbox.run("eval none.safetensors --dataset digits").succeeded();
    let said = "warning: the loss is NaN: the model's outputs are too large or not finite\n";
    assert_eq!(outcome.stderr, said);
}
