//! A dataset from a folder of IDX files.

use std::path::{Path, PathBuf};

use crate::dataset::{CLASSES, Dataset};
use crate::error::{Error, Result};
use crate::idx::{IdxFile, IdxReader, Images};

/// Reads the four IDX files of a folder, plain or gzipped (plain where both are there), and checks
/// magic numbers, sizes, counts and labels. The dataset takes the folder's name.
///
/// Images may be of any height and width, and there are ten classes. Memory stays near the size of
/// the unpacked files, whatever their headers say.
///
/// # Errors
/// The first thing that is wrong, with the file that it is wrong in.
pub fn load_dir(folder: &Path) -> Result<Dataset> {
    let train = Set::read(folder, IdxFile::TrainImages, IdxFile::TrainLabels)?;
    let test = Set::read(folder, IdxFile::TestImages, IdxFile::TestLabels)?;
    let (expected, got) = (train.size(), test.size());
    if expected != got {
        return Err(Error::Sizes { path: test.path, expected, got });
    }
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
    let sets = [(train.images.pixels, train.labels), (test.images.pixels, test.labels)];
    Dataset::from_bytes(name, sets, expected)
}

/// Images and labels of one split.
struct Set {
    /// The file of the images.
    path: PathBuf,
    images: Images,
    labels: Vec<u8>,
}

impl Set {
    fn read(folder: &Path, images: IdxFile, labels: IdxFile) -> Result<Self> {
        // The small file first: an absent or wrong one is found before the large one is unpacked.
        let mut label_file = IdxReader::open(folder, labels)?;
        let labels = label_file.labels(CLASSES)?;
        let mut image_file = IdxReader::open(folder, images)?;
        let header = image_file.images_header()?;
        let path = image_file.path().to_owned();
        if header.count != labels.len() {
            return Err(Error::Counts {
                images: path,
                labels: label_file.path().to_owned(),
                image_count: header.count,
                label_count: labels.len(),
            });
        }
        let images = image_file.images(header)?;
        Ok(Self { path, images, labels })
    }

    /// Height and width of the images.
    fn size(&self) -> (usize, usize) {
        (self.images.height, self.images.width)
    }
}
