//! Files that are not models, or the wrong model.

use crate::files::test_file;
use crate::support::Sandbox;

#[test]
fn a_missing_model_is_rejected() {
    let sandbox = Sandbox::new();
    sandbox.write("empty/readme", "");
    for command in ["info", "eval", "predict --dataset digits", "export --layout notebook -o out"] {
        sandbox.refuses(4, &format!("{command} nowhere")).saying(&["cannot read nowhere"]);
        sandbox.refuses(4, &format!("{command} empty")).saying(&["empty/config.toml"]);
    }
}

#[test]
fn a_file_without_configuration_gets_a_hint_to_import_it() {
    let sandbox = Sandbox::new();
    let fixture = test_file("fixtures/mnist-20-steps/shallow.safetensors");
    std::fs::copy(fixture, sandbox.path("plain.safetensors")).unwrap();
    let refusal = sandbox.refuses(4, "eval plain.safetensors");
    assert!(
        refusal.hint.contains("`vit import plain.safetensors -o OUT.safetensors`"),
        "{refusal:?}"
    );
    refusal.saying(&["plain.safetensors has no configuration"]);
}

#[test]
fn a_file_of_another_format_is_rejected() {
    let sandbox = Sandbox::new();
    sandbox.write("text.safetensors", "not tensors at all");
    for words in ["train --dataset digits --init text.safetensors", "info text.safetensors"] {
        sandbox.refuses(4, words).saying(&["text.safetensors is not a safetensors file"]);
    }
    sandbox
        .refuses(4, "train --dataset digits --init absent.safetensors")
        .saying(&["cannot read absent.safetensors"]);
}

/// One line, however many parameters differ.
#[test]
fn a_model_of_another_shape_is_rejected_by_its_first_difference() {
    let sandbox = Sandbox::new();
    sandbox.write("wide.toml", "[model]\nmlp_dim = 64\ndepth = 1\n");
    sandbox.train_digits("--config wide.toml --max-steps 1");
    let before = sandbox.entries();
    let words = "train --preset shallow --dataset digits --init run/model.safetensors";
    let refusal = sandbox.refuses(2, words);
    assert_eq!(sandbox.entries(), before);
    assert!(refusal.hint.contains("leave out --preset"), "{refusal:?}");
    refusal.saying(&["run/model.safetensors: cannot fine-tune a model with another depth"]);
}
