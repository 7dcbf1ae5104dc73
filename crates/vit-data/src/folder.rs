//! A dataset from a folder of IDX files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vit_files::{open_file, text_of_at_most};

use crate::dataset::{Dataset, numbered};
use crate::error::{Error, Result};
use crate::idx::{IdxFile, IdxReader, ImagesHeader};

/// A gzipped file that unpacks to this much more than its size is checked before it is kept. A little above MNIST's
/// training images.
const TRUSTED: u64 = 36 << 20;

/// Subfolder that torchvision unpacks into.
const RAW: &str = "raw";
/// Prefix of EMNIST's files (arXiv 1702.05373). Its images are MNIST's with rows and columns exchanged.
const EMNIST: &str = "emnist";
/// EMNIST's list of classes, one a line: a label and its character's code.
const MAPPING: &str = "mapping.txt";
/// Far above EMNIST's longest.
const LONGEST_MAPPING: u64 = 1 << 14;

/// Reads the four IDX files of a folder, plain or gzipped (plain if both exist), and checks magic numbers, sizes,
/// counts and labels. The folder's name becomes the dataset's.
///
/// It finds files under MNIST's published names (`train-images-idx3-ubyte`), the names some unpackers use
/// (`train-images.idx3-ubyte`) and EMNIST's (`emnist-letters-train-images-idx3-ubyte`, with `-test-` for the test
/// split), in the folder itself or in torchvision's subfolders (`raw`, `MNIST/raw`). Images may have any height and
/// width, grey or, with a fourth dimension, in colour. The largest training label sets the number of classes; class
/// names are the numbers, or come from EMNIST's `mapping.txt`.
///
/// Memory stays near the size of the files, whatever their headers announce: a file that unpacks to far more is first
/// checked in one pass that keeps nothing. Only a valid file is unpacked into memory.
///
/// # Errors
/// The first problem found, with its file.
pub fn load_dir(folder: &Path) -> Result<Dataset> {
    let files = IdxFiles::find(folder)?;
    let [train, test] = files.open()?;
    if train.beyond() + test.beyond() > TRUSTED {
        test.check()?;
        if train.beyond() > TRUSTED {
            train.check()?;
        }
    }
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
    let shape = train.header.shape();
    let mut train = train.read(None)?;
    let classes = train.1.iter().max().map_or(0, |&most| usize::from(most) + 1);
    let mut test = test.read(Some(classes))?;
    let mut shape = shape;
    if files.is_transposed() {
        for (pixels, _) in [&mut train, &mut test] {
            transpose(pixels, shape);
        }
        shape = (shape.0, shape.2, shape.1);
    }
    let wide = |(pixels, labels): (Vec<u8>, Vec<u8>)| {
        (pixels, labels.into_iter().map(u32::from).collect::<Vec<_>>())
    };
    let names = files.class_names(classes)?;
    Dataset::from_bytes(name, names, [wide(train), wide(test)], shape)
}

/// Channels, height and width of a folder's images, from its headers. Also checks the sizes of the files.
///
/// # Errors
/// Same as [`load_dir`], as far as the headers show them.
pub fn image_shape(folder: &Path) -> Result<(usize, usize, usize)> {
    let files = IdxFiles::find(folder)?;
    let [train, _] = files.open()?;
    let (channels, height, width) = train.header.shape();
    let is_transposed = files.is_transposed();
    Ok(if is_transposed { (channels, width, height) } else { (channels, height, width) })
}

/// Whether a folder contains a file with the name of IDX images or labels.
#[must_use]
pub fn holds_idx(folder: &Path) -> bool {
    places(folder).iter().any(|place| !named(place).is_empty())
}

/// The four files of a dataset.
struct IdxFiles {
    folder: PathBuf,
    /// In the order of [`IdxFile::ALL`].
    paths: [PathBuf; 4],
    /// Prefix of the names, such as `emnist-letters-`.
    prefix: String,
}

/// A file with the name of one of the four.
struct Named {
    path: PathBuf,
    file: IdxFile,
    prefix: String,
    is_gz: bool,
}

impl IdxFiles {
    fn find(folder: &Path) -> Result<Self> {
        let looked_in = places(folder);
        let found = looked_in.iter().map(|place| (place, named(place)));
        let Some((place, named)) = found.into_iter().find(|(_, named)| !named.is_empty()) else {
            let found = names_in(folder);
            return Err(Error::Absent { file: IdxFile::ALL[0].name(), looked_in, found });
        };
        let prefixes: BTreeSet<&str> = named.iter().map(|named| &*named.prefix).collect();
        let prefix = match prefixes.iter().copied().collect::<Vec<_>>()[..] {
            [only] => only.to_owned(),
            _ => {
                let found = prefixes.into_iter().map(str::to_owned).collect();
                return Err(Error::Several { path: place.clone(), found });
            }
        };
        let path = |file: IdxFile| {
            let of_file = named.iter().filter(|named| named.file == file);
            let path = of_file.min_by_key(|named| named.is_gz).map(|named| named.path.clone());
            let looked_in = vec![place.clone()];
            path.ok_or_else(|| Error::Absent {
                file: file.name(),
                looked_in,
                found: names_in(place),
            })
        };
        let [a, b, c, d] = IdxFile::ALL;
        let paths = [path(a)?, path(b)?, path(c)?, path(d)?];
        Ok(Self { folder: place.clone(), paths, prefix })
    }

    /// The training and test split, with images of one shape.
    fn open(&self) -> Result<[Set; 2]> {
        let [train_images, train_labels, test_images, test_labels] = &self.paths;
        let train = Set::open(train_images, train_labels)?;
        let test = Set::open(test_images, test_labels)?;
        let (expected, got) = (train.header.shape(), test.header.shape());
        if expected != got {
            return Err(Error::Sizes { path: test.images.path().to_owned(), expected, got });
        }
        Ok([train, test])
    }

    fn is_transposed(&self) -> bool {
        self.prefix.starts_with(EMNIST)
    }

    /// Class names from EMNIST's list beside the files, else the numbers.
    fn class_names(&self, classes: usize) -> Result<Vec<String>> {
        let mut names = numbered(classes);
        let path = self.folder.join(format!("{}{MAPPING}", self.prefix));
        if !self.is_transposed() || !path.exists() {
            return Ok(names);
        }
        let text = open_file(&path).and_then(|file| text_of_at_most(LONGEST_MAPPING, file));
        let text = text.map_err(|source| Error::Unreadable { path: path.clone(), source })?;
        for line in text.lines() {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let (Some(Ok(label)), Some(Ok(letter))) = (numbers.next(), numbers.next()) else {
                continue;
            };
            let name = char::from_u32(letter).filter(|letter| letter.is_alphanumeric());
            if let (Some(place), Some(name)) = (names.get_mut(label as usize), name) {
                *place = name.to_string();
            }
        }
        Ok(names)
    }
}

/// The folders to search: this one, and torchvision's subfolders.
fn places(folder: &Path) -> Vec<PathBuf> {
    let mut places = vec![folder.to_owned(), folder.join(RAW)];
    for name in names_in(folder) {
        let below = folder.join(name).join(RAW);
        if below.is_dir() {
            places.push(below);
        }
    }
    places.retain(|place| place == folder || place.is_dir());
    places
}

/// The sorted names of a folder's entries; empty if it cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// The files of a folder with the name of a dataset's file.
fn named(folder: &Path) -> Vec<Named> {
    let each = names_in(folder).into_iter().filter_map(|name| {
        let (file, prefix, is_gz) = role(&name)?;
        Some(Named { path: folder.join(&name), file, prefix, is_gz })
    });
    each.collect()
}

/// The file that this name means, its prefix, and whether it is gzipped.
fn role(name: &str) -> Option<(IdxFile, String, bool)> {
    let lower = name.to_ascii_lowercase();
    let (stem, is_gz) = match lower.strip_suffix(".gz") {
        Some(stem) => (stem, true),
        None => (&*lower, false),
    };
    let stem = stem.replace('.', "-");
    let parts = [
        ("train-images-", IdxFile::TrainImages),
        ("train-labels-", IdxFile::TrainLabels),
        ("t10k-images-", IdxFile::TestImages),
        ("t10k-labels-", IdxFile::TestLabels),
        ("test-images-", IdxFile::TestImages),
        ("test-labels-", IdxFile::TestLabels),
    ];
    parts.into_iter().find_map(|(part, file)| {
        let at = stem.find(part)?;
        let (prefix, rest) = (&stem[..at], &stem[at + part.len()..]);
        let ends = match file {
            IdxFile::TrainImages | IdxFile::TestImages => ["idx3-ubyte", "idx4-ubyte"],
            IdxFile::TrainLabels | IdxFile::TestLabels => ["idx1-ubyte"; 2],
        };
        let fits = ends.contains(&rest) && (prefix.is_empty() || prefix.ends_with('-'));
        fits.then(|| (file, prefix.to_owned(), is_gz))
    })
}

/// Images and labels of one split, with their headers read.
struct Set {
    images: IdxReader,
    labels: IdxReader,
    header: ImagesHeader,
}

impl Set {
    fn open(images: &Path, labels: &Path) -> Result<Self> {
        let mut labels = IdxReader::open(labels)?;
        let label_count = labels.labels_header()?;
        let mut images = IdxReader::open(images)?;
        let header = images.images_header()?;
        if header.count != label_count {
            return Err(Error::Counts {
                images: images.path().to_owned(),
                labels: labels.path().to_owned(),
                image_count: header.count,
                label_count,
            });
        }
        Ok(Self { images, labels, header })
    }

    /// Unpacked bytes beyond the size of the files; 0 for plain files, which cannot hold more.
    fn beyond(&self) -> u64 {
        self.images.beyond(self.header.len()) + self.labels.beyond(self.header.count)
    }

    /// Checks that both files are complete.
    fn check(&self) -> Result<()> {
        self.labels.check_count(self.header.count)?;
        self.images.check_images(self.header)
    }

    /// Pixels, channel by channel, and labels, below `classes` if given. Labels come first: wrong ones are found before
    /// much is unpacked.
    fn read(mut self, classes: Option<usize>) -> Result<(Vec<u8>, Vec<u8>)> {
        let labels = self.labels.labels(self.header.count, classes)?;
        let mut pixels = self.images.images(self.header)?;
        if self.header.is_interleaved {
            by_channel(&mut pixels, self.header.shape());
        }
        Ok((pixels, labels))
    }
}

/// Reorders interleaved channels to planes, image by image.
fn by_channel(pixels: &mut [u8], (channels, height, width): (usize, usize, usize)) {
    rearrange(pixels, channels * height * width, |at| {
        let (channel, pixel) = (at / (height * width), at % (height * width));
        pixel * channels + channel
    });
}

/// Exchanges rows and columns of each image.
fn transpose(pixels: &mut [u8], (channels, height, width): (usize, usize, usize)) {
    rearrange(pixels, channels * height * width, |at| {
        let (channel, pixel) = (at / (height * width), at % (height * width));
        let (row, column) = (pixel / height, pixel % height);
        channel * height * width + column * width + row
    });
}

/// Permutes the bytes of each image of `len` bytes: position `i` gets the byte at `from(i)`.
fn rearrange(pixels: &mut [u8], len: usize, from: impl Fn(usize) -> usize) {
    let mut before = vec![0; len];
    for image in pixels.chunks_exact_mut(len) {
        before.copy_from_slice(image);
        for (at, byte) in image.iter_mut().enumerate() {
            *byte = before[from(at)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_under_all_their_names() {
        let known = role;
        for (name, prefix, is_gz) in [
            ("train-images-idx3-ubyte", "", false),
            ("train-images.idx3-ubyte", "", false),
            ("train-images-idx3-ubyte.gz", "", true),
            ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-", true),
            ("train-images-idx4-ubyte", "", false),
        ] {
            let want = (IdxFile::TrainImages, prefix.to_owned(), is_gz);
            assert_eq!(known(name), Some(want), "{name}");
        }
        let test = known("emnist-digits-test-labels-idx1-ubyte");
        assert_eq!(test, Some((IdxFile::TestLabels, "emnist-digits-".to_owned(), false)));
        for name in ["train-images-idx1-ubyte", "mytrain-images-idx3-ubyte", "train-images.png"] {
            assert_eq!(known(name), None, "{name}");
        }
    }

    #[test]
    fn channels_become_planes_and_rows_become_columns() {
        let mut pixels = vec![1, 10, 100, 2, 20, 200, 3, 30, 255, 4, 40, 0];
        by_channel(&mut pixels, (3, 2, 2));
        assert_eq!(pixels, [1, 2, 3, 4, 10, 20, 30, 40, 100, 200, 255, 0]);
        let mut pixels = vec![1, 2, 3, 4, 5, 6];
        transpose(&mut pixels, (1, 2, 3));
        assert_eq!(pixels, [1, 4, 2, 5, 3, 6]);
    }
}
