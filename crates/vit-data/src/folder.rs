//! A dataset from a folder of IDX files.

use std::path::Path;

use crate::dataset::{CLASSES, Dataset};
use crate::error::{Error, Result};
use crate::idx::{IdxFile, IdxReader, ImagesHeader};

/// By how much files may be more, unpacked, than they are on the disk before it is looked whether they are whole: a little
/// more than MNIST's training images.
const TRUSTED: u64 = 36 << 20;

/// Reads the four IDX files of a folder, plain or gzipped (plain where both are there), and checks
/// magic numbers, sizes, counts and labels. The dataset takes the folder's name.
///
/// Images may be of any height and width, and there are ten classes. Memory stays near the size of
/// the files, whatever their headers say: what unpacks to far more is first read once without keeping any of it, so that only
/// what is right is unpacked into memory.
///
/// # Errors
/// The first thing that is wrong, with the file that it is wrong in.
pub fn load_dir(folder: &Path) -> Result<Dataset> {
    let [train, test] = open(folder)?;
    if train.beyond() + test.beyond() > TRUSTED {
        test.check()?;
        if train.beyond() > TRUSTED {
            train.check()?;
        }
    }
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
    let size = train.size();
    Dataset::from_bytes(name, [train.read()?, test.read()?], size)
}

/// Height and width of the images of such a folder, as its headers say, with which the sizes of the files are checked.
///
/// # Errors
/// As [`load_dir`], as far as headers tell.
pub fn image_size(folder: &Path) -> Result<(usize, usize)> {
    let [train, _] = open(folder)?;
    Ok(train.size())
}

/// The training and the test set, of images of one size.
fn open(folder: &Path) -> Result<[Set; 2]> {
    let train = Set::open(folder, IdxFile::TrainImages, IdxFile::TrainLabels)?;
    let test = Set::open(folder, IdxFile::TestImages, IdxFile::TestLabels)?;
    let (expected, got) = (train.size(), test.size());
    if expected != got {
        return Err(Error::Sizes { path: test.images.path().to_owned(), expected, got });
    }
    Ok([train, test])
}

/// Images and labels of one split, of which the headers have been read.
struct Set {
    images: IdxReader,
    labels: IdxReader,
    header: ImagesHeader,
}

impl Set {
    fn open(folder: &Path, images: IdxFile, labels: IdxFile) -> Result<Self> {
        let mut labels = IdxReader::open(folder, labels)?;
        let label_count = labels.labels_header()?;
        let mut images = IdxReader::open(folder, images)?;
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

    /// Height and width of the images.
    const fn size(&self) -> (usize, usize) {
        (self.header.height, self.header.width)
    }

    /// By how many bytes it is more than its files: none where they are plain, for they hold no more than they have bytes.
    fn beyond(&self) -> u64 {
        self.images.beyond(self.header.len()) + self.labels.beyond(self.header.count)
    }

    /// Holds both files to be whole and right.
    fn check(&self) -> Result<()> {
        self.labels.check_all_labels(self.header.count, CLASSES)?;
        self.images.check_images(self.header)
    }

    /// Pixels and labels. The labels come first: wrong ones are found before much is unpacked.
    fn read(mut self) -> Result<(Vec<u8>, Vec<u8>)> {
        let labels = self.labels.labels(self.header.count, CLASSES)?;
        let pixels = self.images.images(self.header)?;
        Ok((pixels, labels))
    }
}
