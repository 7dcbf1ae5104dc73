//! Impossible settings: one line names the setting, and nothing is left behind.

use crate::idx_folder::IdxFolder;
use crate::support::{Refusal, Sandbox};

/// The error of `vit train` with these words.
#[track_caller]
fn rejected(words: &str) -> Refusal {
    Sandbox::new().refuses(2, &format!("train --dataset digits {words}"))
}

/// The error of `vit train` with this configuration file.
#[track_caller]
fn rejected_file(text: &str) -> Refusal {
    let sandbox = Sandbox::new();
    sandbox.write("c.toml", text);
    sandbox.refuses(2, "train --dataset digits --config c.toml")
}

#[test]
fn out_of_range_flags_are_rejected() {
    for (words, message) in [
        (
            "--preset huge",
            "no preset is called \"huge\", expected one of notebook, shallow, pictures-32, \
             pictures-64, vit-ti16, vit-s16, \
             vit-b16, vit-b32, vit-l16",
        ),
        ("--epochs 0", "expected epochs of at least 1, got 0"),
        ("--max-steps 0", "expected max_steps of at least 1, got 0"),
        ("--batch-size 0", "expected batch_size of at least 1, got 0"),
        ("--log-every 0", "expected log_every of at least 1, got 0"),
        ("--lr -1", "expected lr of at least 0, got -1"),
        ("--lr nan", "expected lr of at least 0, got NaN"),
        ("--lr inf", "expected lr of at least 0, got inf"),
        ("--val-split 1", "expected val_split in [0, 1), got 1"),
        ("--patience 3", "expected patience only with val_split above 0, got 3"),
        ("--val-split 0.1 --patience 0", "expected patience of at least 1, got 0"),
        (
            "--val-split 1e-9",
            "expected val_split to hold out at least one image, got 0.000000001 of 10000",
        ),
        ("--clip 0", "expected clip above 0, got 0"),
        ("--accumulate 0", "expected accumulate of at least 1, got 0"),
        ("--label-smoothing 1", "expected label_smoothing in [0, 1), got 1"),
        ("--ema 1", "expected ema in [0, 1), got 1"),
        ("--weight-decay -1", "expected weight_decay of at least 0, got -1"),
        ("--min-lr 1e-5", "expected schedule.min_lr only with a schedule that falls, got 0.00001"),
        ("--schedule cosine --min-lr 1", "expected schedule.min_lr between 0 and lr, got 1"),
        ("--augment-shift -1", "expected augment.shift of at least 0, got -1"),
        ("--augment-rotation 181", "expected augment.rotation between 0 and 180, got 181"),
        ("--augment-scale inf", "expected augment.scale of at least 0, got inf"),
        ("--augment-shear 81", "expected augment.shear between 0 and 80, got 81"),
        ("--augment-elastic nan", "expected augment.elastic of at least 0, got NaN"),
        ("--augment-erase 1.5", "expected augment.erase between 0 and 1, got 1.5"),
        ("--augment-mixup -0.2", "expected augment.mixup of at least 0, got -0.2"),
        ("--dropout 1", "expected dropout.attention in [0, 1), got 1"),
        ("--dropout -0.1", "expected dropout.attention in [0, 1), got -0.1"),
    ] {
        assert_eq!(rejected(words).message, message, "{words}");
    }
}

#[test]
fn malformed_flags_are_rejected() {
    for (words, message) in [
        ("--save-every 0", "expected a number of steps such as 500, or of seconds such as 30s"),
        ("--device gpu", "expected auto, cpu, cuda or cuda:N"),
        ("--threads 0", "0 is not in 1..=1024"),
        ("--epochs many", "invalid digit found in string"),
    ] {
        let flag = words.split(' ').next().unwrap();
        rejected(words).saying(&[flag, message]);
    }
}

#[test]
fn a_batch_larger_than_the_dataset_is_rejected() {
    let refusal = rejected("--batch-size 10001 --run-dir run");
    assert!(refusal.hint.contains("--batch-size"), "{refusal:?}");
    refusal.saying(&["10001", "10000 samples"]);
    rejected("--batch-size 5001 --accumulate 2 --run-dir run").saying(&["10002", "10000 samples"]);
}

/// Detected before any parameter is drawn: the largest model has 300 million.
#[test]
fn a_dataset_of_another_image_size_is_rejected() {
    for preset in ["vit-ti16", "vit-l16"] {
        let refusal = rejected_file(&format!(
            "preset = \"{preset}\"\n[model.image]\nheight = 224\nwidth = 224\nchannels = 3\n"
        ));
        assert_eq!(
            refusal.message,
            "the model expects images of 224x224 px with 3 channels, digits has 28x28 px with 1"
        );
        assert!(refusal.hint.contains("[model] image"), "{refusal:?}");
    }
}

#[test]
fn impossible_models_are_rejected() {
    for (model, message) in [
        ("heads = 0", "expected heads of at least 1, got 0"),
        ("heads = 5", "expected heads that divide dim, got 5 heads for a dim of 32"),
        (
            "patch = { height = 5, width = 7 }",
            "image of 28x28 px is not divisible by patch of 5x7 px",
        ),
        ("classes = 0", "expected between 1 and 65536 classes, got 0"),
        ("heads = 1_000_000_000_000", "expected heads of at most 16777216, got 1000000000000"),
        ("depth = 16777216", "expected depth of at most 1024, got 16777216"),
        ("registers = 65537", "expected registers of at most 65536, got 65537"),
        ("head_dim = 0", "expected head_dim of at least 1, got 0"),
    ] {
        let refusal = rejected_file(&format!("[model]\n{model}\n"));
        assert_eq!(refusal.message, format!("c.toml: {message}"), "{model}");
        assert!(refusal.hint.contains("[model]"), "{refusal:?}");
    }
}

#[test]
fn malformed_files_are_rejected_with_suggestions() {
    for (text, message, hint) in [
        ("[model]\nhaeds = 4\n", "unknown field `haeds`", "did you mean heads?"),
        ("presets = 'notebook'\n", "unknown field `presets`", "did you mean preset?"),
        ("[train]\nepoch = 4\n", "unknown field `epoch`", "did you mean epochs?"),
        ("epochs = 4\n", "unknown field `epochs`", "it belongs in another table: train.epochs"),
        (
            "[train]\nshear = 4\n",
            "unknown field `shear`",
            "it belongs in another table: augment.shear",
        ),
        ("[augment]\nrotate = 4\n", "unknown field `rotate`", "did you mean rotation?"),
        ("[train.schedule]\nkind = 'cosin'\n", "unknown variant `cosin`", "did you mean cosine?"),
    ] {
        let refusal = rejected_file(text).saying(&["c.toml", message]);
        assert_eq!(refusal.hint, hint, "{text}");
    }
    rejected_file("[train]\nepochs = 'two'\n").saying(&["c.toml", "\"two\"", "in `train.epochs`"]);
    rejected_file("seed = 1\n[train\n").saying(&["c.toml:2: "]);
    rejected("--config absent.toml").saying(&["cannot read absent.toml"]);
}

#[test]
fn out_of_range_augmentation_is_rejected() {
    let refusal = rejected_file("[augment]\nerase = 1.5\n");
    assert_eq!(refusal.message, "c.toml: expected augment.erase between 0 and 1, got 1.5");
    for place in ["--augment-erase", "[augment]"] {
        assert!(refusal.hint.contains(place), "{refusal:?}");
    }
}

#[test]
fn a_preset_conflicting_with_the_file_is_rejected() {
    let sandbox = Sandbox::new();
    sandbox.write("c.toml", "preset = 'notebook'\n[model]\noutput = 'softmax'\n");
    sandbox
        .refuses(2, "train --dataset digits --config c.toml --preset shallow")
        .saying(&["c.toml", "notebook", "shallow"]);
}

#[test]
fn images_or_classes_that_do_not_suit_the_model_are_rejected() {
    let sandbox = Sandbox::new();
    IdxFolder { height: 14, width: 21, ..IdxFolder::default() }.write(&sandbox, "wide");
    sandbox.write("square.toml", "[model.image]\nheight = 28\nwidth = 28\nchannels = 1\n");
    let refusal = sandbox.refuses(2, "train --dataset wide --batch-size 8 --config square.toml");
    assert!(refusal.hint.contains("[model]"), "{refusal:?}");
    refusal.saying(&["28x28 px", "wide has 14x21 px"]);
    sandbox.write("five.toml", "[model]\nclasses = 5\n");
    sandbox
        .refuses(2, "train --dataset digits --config five.toml")
        .saying(&["the model has 5 classes", "digits has 10"]);
}

#[test]
fn a_missing_device_is_rejected() {
    let refusal = Sandbox::new().refuses(6, "train --dataset digits --device cuda");
    assert!(refusal.hint.contains("--device cpu"), "{refusal:?}");
    refusal.saying(&["cuda:0"]);
}

#[test]
fn a_diverging_run_ends_with_code_5_and_a_hint() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run("-q train --dataset digits --lr 1e30 --run-dir run");
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    assert_eq!(
        outcome.stderr,
        "error: step 2 of epoch 1: expected a finite loss, got NaN\n\
         hint: try a smaller --lr; run/diverged.json lists the images of that step, and `vit train --resume run` repeats it\n"
    );
    assert!(!sandbox.path("run/model.safetensors").exists());
}

#[test]
fn divergence_in_the_last_step_is_found() {
    let outcome =
        Sandbox::new().run("-q train --dataset digits --lr 1e30 --max-steps 1 --run-dir run");
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("expected a finite test loss, got"), "{}", outcome.stderr);
}

#[test]
fn numbers_beyond_toml_are_rejected() {
    for flag in ["--epochs", "--max-steps", "--log-every", "--seed"] {
        rejected(&format!("{flag} 18446744073709551615"));
    }
}

#[test]
fn a_run_directory_that_cannot_be_created_is_rejected() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    sandbox.refuses(4, "train --dataset digits --run-dir file/run").saying(&["cannot write file"]);
}
