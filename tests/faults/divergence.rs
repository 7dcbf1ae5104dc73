//! Numbers that cease to be finite.

use super::{checkpoints, copy};

/// A learning rate that rises until no parameters stand it.
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
lr = 1e36
[model]
depth = 1
";

#[test]
fn the_last_good_checkpoint_stands_and_the_run_diverges_again() {
    let sandbox = super::sandbox();
    sandbox.write("rising.toml", RISING);
    let first = sandbox.run("-q train --config rising.toml --save-every 1 --run-dir run");
    assert_eq!(first.code, Some(5), "{}", first.stderr);
    let told: serde_json::Value =
        serde_json::from_slice(&sandbox.read("run/diverged.json")).unwrap();
    let step = told["step"].as_u64().unwrap();
    assert_eq!(told["seed"], 0);
    assert_eq!(told["samples"].as_array().unwrap().len(), 10);
    assert_eq!(checkpoints(&sandbox, "run").last(), Some(&(step - 1)));
    sandbox.run("verify run --files-only").succeeded();
    assert!(first.stderr.contains("run/diverged.json says on which images"), "{}", first.stderr);
    copy(&sandbox.path("run"), &sandbox.path("second"));
    std::fs::remove_file(sandbox.path("second/diverged.json")).unwrap();
    let again = sandbox.run("-q train --resume second");
    assert_eq!(again.code, Some(5), "{}", again.stderr);
    assert_eq!(again.stderr.replace("second", "run"), first.stderr);
    assert_eq!(sandbox.read("second/diverged.json"), sandbox.read("run/diverged.json"));
}
