//! The files of each dataset, their digests and their mirrors.

use std::path::{Path, PathBuf};

use vit_files::Digest;

/// The datasets that can be fetched by name.
pub const DATASETS: [&Source; 4] = [&MNIST, &FASHION_MNIST, &CIFAR_10, &CIFAR_100];

/// A dataset: a folder of files, each served by every mirror as `<mirror>/<file>.gz`.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name on the command line, and its folder's in the data root.
    pub name: &'static str,
    /// The files that make it up.
    pub files: &'static [SourceFile],
    /// The addresses of folders that serve the files, the best first.
    pub mirrors: &'static [&'static str],
}

impl Source {
    /// The dataset of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        DATASETS.into_iter().find(|source| source.name == name)
    }

    /// The dataset's folder in a data root.
    #[must_use]
    pub fn folder(&self, data_root: &Path) -> PathBuf {
        data_root.join(self.name)
    }
}

/// A file of a dataset.
#[derive(Clone, Copy, Debug)]
pub struct SourceFile {
    /// Its name once unpacked.
    pub name: &'static str,
    /// Its size once unpacked, in bytes; an upper bound if the digest is of the packed bytes.
    pub len: u64,
    /// Its digest.
    pub sha256: Checksum,
}

/// A file's known digest.
#[derive(Clone, Copy, Debug)]
pub enum Checksum {
    /// Digest of the unpacked bytes: valid for any compression, and the file is installed unpacked.
    Unpacked(Digest),
    /// Digest of the `.gz` as the mirrors serve it: the file is installed as that `.gz`, since
    /// nothing else could be verified later.
    Packed(Digest),
}

impl SourceFile {
    /// The file's name at a mirror, and on disk where it is kept packed.
    pub(crate) fn packed_name(&self) -> String {
        format!("{}.gz", self.name)
    }

    /// Upper bound of the `.gz` file's size: incompressible data adds five bytes per block of 16 kB, plus the header.
    pub(crate) fn longest_packed(&self) -> u64 {
        self.len + self.len / 1000 + 1024
    }
}

/// Handwritten digits (LeCun, Cortes, Burges; CC BY-SA 3.0): 60,000 and 10,000 images of 28x28.
///
/// The digests are of the unpacked files. The original host answers 403 or 404 and is not used.
pub const MNIST: Source = Source {
    name: "mnist",
    files: &[
        file(
            TRAIN_IMAGES,
            unpacked("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ),
        file(
            TRAIN_LABELS,
            unpacked("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ),
        file(
            TEST_IMAGES,
            unpacked("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ),
        file(
            TEST_LABELS,
            unpacked("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ),
    ],
    mirrors: &[
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ],
};

/// Articles of clothing (Xiao, Rasul, Vollgraf, arXiv 1708.07747) in MNIST's format and names.
///
/// The digests are of the unpacked files, so that any packing of them is taken: the mirror's, or Debian's package
/// `dataset-fashion-mnist`.
pub const FASHION_MNIST: Source = Source {
    name: "fashion-mnist",
    files: &[
        file(
            TRAIN_IMAGES,
            unpacked("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ),
        file(
            TRAIN_LABELS,
            unpacked("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        ),
        file(
            TEST_IMAGES,
            unpacked("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ),
        file(
            TEST_LABELS,
            unpacked("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        ),
    ],
    mirrors: &["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"],
};

/// Photographs of ten kinds of things (Krizhevsky, 2009): 50,000 and 10,000 of 32x32 in colour, as one archive.
pub const CIFAR_10: Source = cifar(
    "cifar10",
    &[file(
        ("cifar-10-binary.tar", LONGEST_CIFAR),
        packed("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    )],
);

/// Like [`CIFAR_10`], with 100 classes.
pub const CIFAR_100: Source = cifar(
    "cifar100",
    &[file(
        ("cifar-100-binary.tar", LONGEST_CIFAR),
        packed("58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
    )],
);

const fn cifar(name: &'static str, files: &'static [SourceFile]) -> Source {
    Source { name, files, mirrors: &["https://www.cs.toronto.edu/~kriz/"] }
}

/// 60,000 pictures of 3,074 bytes at most, with room for names, a page and the archive's own headers.
const LONGEST_CIFAR: u64 = 60_000 * 3_074 + (1 << 16);

/// Names and unpacked sizes follow from the format: a header of 16 or 8 bytes, then 28x28 bytes an
/// image or one a label.
const TRAIN_IMAGES: (&str, u64) = ("train-images-idx3-ubyte", 16 + 60_000 * 28 * 28);
const TRAIN_LABELS: (&str, u64) = ("train-labels-idx1-ubyte", 8 + 60_000);
const TEST_IMAGES: (&str, u64) = ("t10k-images-idx3-ubyte", 16 + 10_000 * 28 * 28);
const TEST_LABELS: (&str, u64) = ("t10k-labels-idx1-ubyte", 8 + 10_000);

const fn file((name, len): (&'static str, u64), sha256: Checksum) -> SourceFile {
    SourceFile { name, len, sha256 }
}

const fn unpacked(hex: &str) -> Checksum {
    Checksum::Unpacked(digest(hex))
}

const fn packed(hex: &str) -> Checksum {
    Checksum::Packed(digest(hex))
}

const fn digest(hex: &str) -> Digest {
    Digest::from_hex(hex).expect("the table holds 64 hex digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_is_found_by_its_name() {
        for source in DATASETS {
            assert_eq!(Source::named(source.name).unwrap().name, source.name);
        }
        assert!(Source::named("cifar").is_none());
        assert_eq!(CIFAR_10.files[0].packed_name(), "cifar-10-binary.tar.gz");
    }

    #[test]
    fn sizes_match_published_files() {
        for source in [MNIST, FASHION_MNIST] {
            let sizes: Vec<u64> = source.files.iter().map(|file| file.len).collect();
            assert_eq!(sizes, [47_040_016, 60_008, 7_840_016, 10_008]);
        }
    }
}
