//! Files that are no model, or another one.

use crate::files::test_file;
use crate::support::Sandbox;

#[test]
fn a_model_that_is_not_there() {
    let sandbox = Sandbox::new();
    sandbox.write("empty/readme", "");
    for command in ["info", "eval", "predict --dataset digits", "export --layout notebook -o out"] {
        sandbox.refuses(4, &format!("{command} nowhere")).saying(&["cannot read nowhere"]);
        sandbox.refuses(4, &format!("{command} empty")).saying(&["empty/config.toml"]);
    }
}

#[test]
fn a_file_without_a_configuration() {
    let sandbox = Sandbox::new();
    let fixture = test_file("fixtures/mnist-20-steps/shallow.safetensors");
    std::fs::copy(fixture, sandbox.path("plain.safetensors")).unwrap();
    let refusal = sandbox.refuses(4, "eval plain.safetensors");
    assert!(
        refusal.hint.contains("`vit import plain.safetensors -o OUT.safetensors`"),
        "{refusal:?}"
    );
    refusal.saying(&["plain.safetensors carries no configuration"]);
}

#[test]
fn a_file_that_is_no_safetensors() {
    let sandbox = Sandbox::new();
    sandbox.write("text.safetensors", "not tensors at all");
    for words in ["train --dataset digits --init text.safetensors", "info text.safetensors"] {
        sandbox.refuses(4, words).saying(&["text.safetensors is not a safetensors file"]);
    }
    sandbox
        .refuses(4, "train --dataset digits --init absent.safetensors")
        .saying(&["cannot read absent.safetensors"]);
}

#[test]
fn parameters_of_another_shape_are_all_named() {
    let sandbox = Sandbox::new();
    sandbox.write("wide.toml", "[model]\nmlp_dim = 64\ndepth = 1\n");
    sandbox.train_digits("--config wide.toml --max-steps 1");
    let before = sandbox.entries();
    let outcome = sandbox.run("-q train --dataset digits --init run/model.safetensors");
    assert_eq!(outcome.code, Some(4), "{}", outcome.stderr);
    assert_eq!(sandbox.entries(), before);
    let mut lines = outcome.stderr.lines();
    let first = "error: run/model.safetensors: timm parameters do not fit the configuration:";
    assert_eq!(lines.next(), Some(first));
    let mut problems: Vec<&str> = lines.map(str::trim).collect();
    assert!(problems.pop().is_some_and(|hint| hint.starts_with("hint: the file is of another")));
    // The bias of fc2 is as wide as the model, and fits.
    let changed = [
        "blocks.0.mlp.fc1.bias: expected shape [128], got [64]",
        "blocks.0.mlp.fc1.weight: expected shape [128, 32], got [64, 32]",
        "blocks.0.mlp.fc2.weight: expected shape [32, 128], got [32, 64]",
    ];
    assert_eq!(problems[..3], changed);
    let missing = &problems[3..];
    assert_eq!(missing.len(), 2 * BLOCK);
    assert!(missing.iter().all(|problem| problem.contains(": missing, expected shape [")));
}

/// Parameters of a block: two norms, the joined query, key and value, the projection, and two linear maps.
const BLOCK: usize = 2 * 2 + 1 + 2 + 2 * 2;
