//! Checkpoints with other settings, of another version, or for other images.

use std::fs;

use super::{rewrite, sandbox, uninterrupted};
use crate::idx_folder::IdxFolder;
use crate::support::Sandbox;

/// Changes the text of a checkpoint's file, as another version would have written it.
fn change(sandbox: &Sandbox, name: &str, change: impl Fn(String) -> String) {
    let text = sandbox.read(&format!("whole/checkpoints/step-000040/{name}"));
    rewrite(sandbox, name, change(String::from_utf8(text).unwrap()).as_bytes());
}

#[test]
fn differing_settings_are_named() {
    let sandbox = sandbox();
    uninterrupted(&sandbox);
    let settings = String::from_utf8(sandbox.read("whole/config.toml")).unwrap();
    let other = settings.replace("lr = 0.001", "lr = 0.002").replace("depth = 1", "depth = 2");
    assert!(other != settings);
    sandbox.write("whole/config.toml", other);
    sandbox.refuses(4, "train --resume whole").saying(&[
        "step-000040 has other settings: ",
        "model.depth is 1, but 2 in config.toml; train.optimizer.lr is 0.001, but 0.002 in config.toml",
    ]);
}

#[test]
fn another_format_version_is_named() {
    let sandbox = sandbox();
    uninterrupted(&sandbox);
    change(&sandbox, "state.json", |text| text.replace("\"format\": 1", "\"format\": 2"));
    sandbox
        .refuses(4, "train --resume whole")
        .saying(&["step-000040/state.json: expected format 1, got 2"]);
    change(&sandbox, "state.json", |text| {
        text.replace("\"format\": 2", "\"format\": 1").replace("of_epoch\"", "of_era\"")
    });
    sandbox.refuses(4, "train --resume whole").saying(&["state.json: unknown field `step_of_era`"]);
}

#[test]
fn other_images_are_rejected() {
    let sandbox = sandbox();
    uninterrupted(&sandbox);
    let path = sandbox.path("tiny/train-images-idx3-ubyte");
    let mut images = fs::read(&path).unwrap();
    images[100] ^= 1;
    fs::write(&path, images).unwrap();
    sandbox
        .refuses(3, "train --resume whole")
        .saying(&["the dataset has changed: expected SHA-256"]);
    IdxFolder { train: 60, ..IdxFolder::default() }.write(&sandbox, "tiny");
    sandbox.refuses(3, "train --resume whole").saying(&["the dataset has changed"]);
}

#[test]
fn settings_of_the_run_cannot_be_overridden() {
    let sandbox = sandbox();
    for flag in ["--preset notebook", "--ema 0.9", "--dataset digits"] {
        let refused = sandbox.run(&format!("train --resume whole {flag}"));
        assert_eq!(refused.code, Some(2), "{flag}: {}", refused.stderr);
        let name = flag.split(' ').next().unwrap();
        let said = format!("'--resume <RUN>' cannot be used with '{name} <");
        assert!(refused.stderr.contains(&said), "{}", refused.stderr);
        assert!(refused.stderr.contains("vit train --init RUN`"), "{}", refused.stderr);
    }
    sandbox.refuses(4, "train --resume whole").saying(&["cannot read whole/config.toml"]);
}
