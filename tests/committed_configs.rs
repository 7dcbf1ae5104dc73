//! The files in `configs/` train, and have the size they claim.

use serde_json::Value;

use crate::files::test_file;
use crate::idx_folder::IdxFolder;
use crate::support::Sandbox;

#[test]
fn the_class_token_model_trains_and_exports_to_timm_and_transformers() {
    let sandbox = Sandbox::new();
    let config = test_file("../configs/mnist-cls.toml");
    sandbox.train_digits(&format!("--config {} --max-steps 60", config.display()));
    let info = sandbox.run("info run --json").succeeded().json();
    // A class token and 17 positions; qkv, proj and two norms, a feed-forward; the final norm and the head.
    let block = 3 * 48 * 49 + 48 * 49 + 4 * 48 + 192 * 49 + 48 * 193;
    assert_eq!(info["parameters"], 48 * 50 + 48 + 17 * 48 + 3 * block + 2 * 48 + 10 * 49);

    let eval = |model: &str| {
        let outcome = sandbox.run(&format!("eval {model} --dataset digits --json")).succeeded();
        outcome.json()["accuracy"].clone()
    };
    let accuracy = eval("run");
    // Ten classes, after a third of an epoch.
    assert!(accuracy.as_f64().unwrap() > 0.3, "{accuracy}");
    sandbox.run("export run --layout timm -o timm.safetensors").succeeded();
    assert_eq!(eval("timm.safetensors"), accuracy);
    sandbox.run("export run --layout hf -o hf").succeeded();
    sandbox.run("import hf -o hf.safetensors").succeeded();
    assert_eq!(eval("hf.safetensors"), accuracy);
    let hf: Value = serde_json::from_slice(&sandbox.read("hf/config.json")).unwrap();
    let expected = [("hidden_size", 48), ("num_hidden_layers", 3), ("num_attention_heads", 4)];
    for (key, value) in expected {
        assert_eq!(hf[key], value, "{key}");
    }
}

#[test]
fn the_larger_recipe_has_at_most_250_000_parameters() {
    let sandbox = Sandbox::new();
    let config = test_file("../configs/mnist-250k.toml");
    IdxFolder { train: 400, ..IdxFolder::default() }.write(&sandbox, "images");
    let words = format!("train --config {} --dataset images --max-steps 5", config.display());
    let told = sandbox.run(&format!("{words} --run-dir run")).succeeded().stdout;
    assert!(told.contains("val accuracy"), "{told}");
    let info = sandbox.run("info run --json").succeeded().json();
    assert_eq!(info["parameters"], 204_170);
}

/// Trains with the best recipe: a model of the notebook's number of parameters, which learns faster.
pub(crate) fn train_best_recipe(sandbox: &Sandbox) {
    let config = test_file("../configs/mnist-best.toml");
    // Long enough for the average to forget the first steps.
    sandbox.train_digits(&format!("--config {} --epochs 3", config.display()));
    let info = sandbox.run("info run --json").succeeded().json();
    assert_eq!(info["parameters"], 40_330);
    let eval = sandbox.run("eval run --dataset digits --json").succeeded().json();
    // The notebook's recipe reaches 56 % after two epochs.
    assert!(eval["accuracy"].as_f64().unwrap() > 0.85, "{}", eval["accuracy"]);
}
