//! Runs that diverge.

use std::fs;

use safetensors::SafeTensors;

use super::{checkpoints, copy};
use crate::support::Sandbox;

/// A rising learning rate that makes training diverge after some steps.
const RISING: &str = "\
dataset = 'tiny'
[train]
epochs = 30
batch_size = 10
[train.schedule]
kind = 'constant'
warmup = 1000000
[train.optimizer]
kind = 'adam'
lr = 1e14
[model]
depth = 1
";

#[test]
fn the_last_good_checkpoint_is_kept_and_the_run_diverges_again() {
    let sandbox = super::sandbox();
    sandbox.write("rising.toml", RISING);
    let words = "-q train --config rising.toml --save-every 1 --keep 100 --run-dir run";
    let first = sandbox.run(words);
    assert_eq!(first.code, Some(5), "{}", first.stderr);
    let told: serde_json::Value =
        serde_json::from_slice(&sandbox.read("run/diverged.json")).unwrap();
    let step = told["step"].as_u64().unwrap();
    assert_eq!(told["seed"], 0);
    assert_eq!(told["samples"].as_array().unwrap().len(), 10);
    let steps = checkpoints(&sandbox, "run");
    assert_eq!(steps, (1..step).collect::<Vec<_>>());
    assert!(steps.len() > 2, "{steps:?}");
    for step in &steps {
        assert_finite(&sandbox, &format!("run/checkpoints/step-{step:06}/model.safetensors"));
        assert_finite(&sandbox, &format!("run/checkpoints/step-{step:06}/state.safetensors"));
    }
    assert_finite(&sandbox, "run/model.safetensors");
    // Checkpoints well before the end are valid models.
    let evaluated = sandbox.run("-q eval run/checkpoints/step-000001 --json").succeeded().json();
    assert!(evaluated["loss"].is_f64(), "{evaluated}");
    sandbox.run("verify run --files-only").succeeded();
    assert!(first.stderr.contains("run/diverged.json lists the images"), "{}", first.stderr);
    // From the last checkpoint or an earlier one, it reaches the same step with the same message.
    for lost in [0, 2] {
        copy(&sandbox.path("run"), &sandbox.path("second"));
        fs::remove_file(sandbox.path("second/diverged.json")).unwrap();
        for later in steps.iter().rev().take(lost) {
            fs::remove_dir_all(sandbox.path(format!("second/checkpoints/step-{later:06}")))
                .unwrap();
        }
        let again = sandbox.run("-q train --resume second --save-every 1 --keep 100");
        assert_eq!(again.code, Some(5), "{}", again.stderr);
        assert_eq!(again.stderr.replace("second", "run"), first.stderr);
        assert_eq!(checkpoints(&sandbox, "second"), steps);
        for name in ["diverged.json", "model.safetensors"] {
            let (second, first) = (format!("second/{name}"), format!("run/{name}"));
            assert!(sandbox.read(&second) == sandbox.read(&first), "{name}");
        }
        fs::remove_dir_all(sandbox.path("second")).unwrap();
    }
}

/// Checks that all numbers of a file are finite.
#[track_caller]
fn assert_finite(sandbox: &Sandbox, file: &str) {
    let bytes = sandbox.read(file);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert!(!tensors.is_empty(), "{file}");
    for (name, tensor) in tensors.iter() {
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name} of {file}");
        let (numbers, _) = tensor.data().as_chunks::<4>();
        let is_finite = numbers.iter().all(|&bytes| f32::from_le_bytes(bytes).is_finite());
        assert!(is_finite, "{name} of {file}");
    }
}
