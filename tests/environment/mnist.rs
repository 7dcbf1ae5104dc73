//! The real files of MNIST.

use std::path::PathBuf;

use vit_data::IdxFile;
use vit_fetch::{MNIST, Presence};
use vit_files::Digest;

/// The folder with the real MNIST.
pub(crate) fn real_mnist() -> Option<PathBuf> {
    let data = PathBuf::from(std::env::var_os("VIT_DATA")?);
    data.join("mnist").is_dir().then(|| data.canonicalize().unwrap())
}

pub(crate) fn mnist_is_read_and_written_byte_for_byte() {
    let dataset = vit_data::load_dir(&real_mnist().unwrap().join("mnist")).unwrap();
    // SHA-256 of the unpacked files, unchanged since 1998.
    let hashes = [
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ];
    for (file, hash) in IdxFile::ALL.into_iter().zip(hashes) {
        let mut bytes = Vec::new();
        dataset.write_idx(file, &mut bytes).unwrap();
        assert_eq!(Digest::of_bytes(&bytes).to_string(), hash, "{}", file.name());
    }
}

pub(crate) fn published_mnist_is_recognised() {
    let folder = MNIST.folder(&real_mnist().unwrap());
    assert_eq!(vit_fetch::verify(&MNIST, &folder).unwrap(), Presence::Verified);
}
