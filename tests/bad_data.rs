//! Damaged or wrong data are rejected with the file and the problem.

use crate::idx_folder::IdxFolder;
use crate::support::Sandbox;

#[test]
fn an_unknown_dataset_is_rejected() {
    let refusal = Sandbox::new().refuses(3, "train --dataset minst");
    assert!(refusal.hint.contains("fashion-mnist"), "{refusal:?}");
    refusal.saying(&["\"minst\""]);
}

#[test]
fn a_folder_without_idx_files_is_rejected() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny/readme", "");
    let refusal = sandbox.refuses(3, "train --dataset tiny");
    assert!(refusal.hint.contains("CLASS/..."), "{refusal:?}");
    refusal.saying(&["tiny: expected a folder of pictures for each class, got readme"]);
    IdxFolder::default().write(&sandbox, "tiny");
    std::fs::remove_file(sandbox.path("tiny/t10k-labels-idx1-ubyte")).unwrap();
    sandbox.refuses(3, "train --dataset tiny").saying(&[
        "expected t10k-labels-idx1-ubyte (or the same with .gz) in tiny, got readme, t10k-images",
    ]);
}

#[test]
fn errors_describe_files_of_the_wrong_kind() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    for (bytes, kind, hint) in [
        (&b"version https://git-lfs.github.com/spec/v1"[..], "a Git LFS pointer", "git lfs pull"),
        (&[0, 0, 0xb, 3, 0, 0, 0, 1], "int16 numbers in 3 dimensions", "uint8"),
    ] {
        sandbox.write("tiny/train-images-idx3-ubyte", bytes);
        let refusal = sandbox.refuses(3, "train --dataset tiny");
        assert!(refusal.hint.contains(hint), "{refusal:?}");
        refusal.saying(&["tiny/train-images-idx3-ubyte: expected images", kind]);
    }
}

#[test]
fn a_data_dir_one_level_too_deep_gets_a_hint() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "data/mnist");
    let words = "train --max-steps 1 --data-dir data/mnist --run-dir run";
    let stderr = sandbox.run(words).succeeded().stderr;
    let said =
        "MNIST is neither present nor reachable: pass the folder above data/mnist as --data-dir";
    assert!(stderr.contains(said), "{stderr}");
}

#[test]
fn a_truncated_file_is_rejected() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    let name = "tiny/t10k-images-idx3-ubyte";
    let mut bytes = sandbox.read(name);
    let whole = bytes.len();
    bytes.truncate(whole - 100);
    sandbox.write(name, bytes);
    let expected = format!("expected {whole} bytes (unpacked), got {}", whole - 100);
    sandbox.refuses(3, "train --dataset tiny --batch-size 8").saying(&[name, &expected]);
}

#[test]
fn a_test_label_beyond_the_training_classes_is_rejected() {
    let sandbox = Sandbox::new();
    IdxFolder { label: |index| (index % 3) as u8, ..IdxFolder::default() }.write(&sandbox, "tiny");
    let mut labels = sandbox.read("tiny/t10k-labels-idx1-ubyte");
    labels[8 + 7] = 3;
    sandbox.write("tiny/t10k-labels-idx1-ubyte", labels);
    sandbox.refuses(3, "train --dataset tiny --batch-size 8").saying(&[
        "tiny/t10k-labels-idx1-ubyte",
        "below 3 as in the training split, got 3 at index 7",
    ]);
}

#[test]
fn an_altered_mnist_file_is_rejected() {
    let sandbox = Sandbox::new();
    let name = "data/mnist/t10k-labels-idx1-ubyte";
    let published = "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2";
    sandbox.write(name, [&[0, 0, 8, 1, 0, 0, 0x27, 0x10][..], &[3; 10_000]].concat());
    // Even without `--dataset mnist`: damaged data must not be replaced silently by digits.
    for words in ["train", "train --dataset mnist", "fetch mnist"] {
        let refusal = sandbox.refuses(3, &format!("{words} --data-dir data"));
        assert!(refusal.hint.starts_with("delete data/mnist/t10k-labels"), "{refusal:?}");
        refusal.saying(&[name, &format!("expected SHA-256 {published}, got ")]);
    }
    sandbox.write(name, [0; 5]);
    sandbox
        .refuses(3, "train --dataset mnist --data-dir data")
        .saying(&[name, "expected 10008 bytes, got 5"]);
}

#[test]
fn a_malformed_mirror_is_rejected() {
    Sandbox::new()
        .refuses(2, "fetch mnist --mirror mirror.example --data-dir data")
        .saying(&["http://", "\"mirror.example\""]);
    // Even where digits would do: a malformed URL is a typo, not a missing network.
    Sandbox::new()
        .refuses(2, "train --mirror mirror.example --data-dir data")
        .saying(&["\"mirror.example\""]);
    Sandbox::new().refuses(3, "fetch cifar").saying(&["\"cifar\""]);
}
