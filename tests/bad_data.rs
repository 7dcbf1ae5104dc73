//! Data that cannot be trusted or read: refused with the file and what is wrong with it.

use crate::idx_folder::IdxFolder;
use crate::support::Sandbox;

#[test]
fn a_dataset_that_does_not_exist() {
    let refusal = Sandbox::new().refuses(3, "train --dataset minst");
    assert!(refusal.hint.contains("fashion-mnist"), "{refusal:?}");
    refusal.saying(&["\"minst\""]);
}

#[test]
fn a_folder_without_the_files() {
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
fn files_of_another_kind_are_called_what_they_are() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "tiny");
    for (bytes, kind, hint) in [
        (
            &b"version https://git-lfs.github.com/spec/v1"[..],
            "a pointer of Git LFS",
            "git lfs pull",
        ),
        (&[0, 0, 0xb, 3, 0, 0, 0, 1], "int16 numbers in 3 dimensions", "uint8"),
    ] {
        sandbox.write("tiny/train-images-idx3-ubyte", bytes);
        let refusal = sandbox.refuses(3, "train --dataset tiny");
        assert!(refusal.hint.contains(hint), "{refusal:?}");
        refusal.saying(&["tiny/train-images-idx3-ubyte: expected images", kind]);
    }
}

#[test]
fn a_data_folder_a_level_too_deep_is_told() {
    let sandbox = Sandbox::new();
    IdxFolder::default().write(&sandbox, "data/mnist");
    let words = "train --max-steps 1 --data-dir data/mnist --run-dir run";
    let stderr = sandbox.run(words).succeeded().stderr;
    let said =
        "MNIST is neither here nor reachable: pass the folder above data/mnist as --data-dir";
    assert!(stderr.contains(said), "{stderr}");
}

#[test]
fn a_truncated_file() {
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
fn a_test_label_that_training_lacks() {
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
fn a_file_of_mnist_that_is_not_the_published_one() {
    let sandbox = Sandbox::new();
    let name = "data/mnist/t10k-labels-idx1-ubyte";
    let published = "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2";
    sandbox.write(name, [&[0, 0, 8, 1, 0, 0, 0x27, 0x10][..], &[3; 10_000]].concat());
    // Also where MNIST was not asked for by name: digits are no answer to altered data.
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
fn a_mirror_that_is_no_address() {
    Sandbox::new()
        .refuses(2, "fetch mnist --mirror mirror.example --data-dir data")
        .saying(&["http://", "\"mirror.example\""]);
    // Even where digits would do: it is a slip of the pen and not a want of network.
    Sandbox::new()
        .refuses(2, "train --mirror mirror.example --data-dir data")
        .saying(&["\"mirror.example\""]);
    Sandbox::new().refuses(3, "fetch cifar").saying(&["\"cifar\""]);
}
