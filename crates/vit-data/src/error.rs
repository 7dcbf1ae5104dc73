//! The errors of reading datasets.

use std::path::PathBuf;

/// A result whose error is this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error in a dataset; the message names the file, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of a dataset's four files is missing.
    #[error(
        "expected {file} (or the same with .gz) in {}, got {}",
        folders(looked_in),
        list(found, "no file")
    )]
    Absent {
        /// The file's usual name.
        file: &'static str,
        /// The folders searched.
        looked_in: Vec<PathBuf>,
        /// Some of the names in the first folder.
        found: Vec<String>,
    },
    /// A folder holds the files of several datasets.
    #[error("{}: expected the files of one dataset, got files of {}", path.display(), list(found, "none"))]
    Several {
        /// The folder.
        path: PathBuf,
        /// The prefixes of the datasets' file names.
        found: Vec<String>,
    },
    /// No pictures in class folders.
    #[error(
        "{}: expected a folder of pictures for each class, got {}", path.display(), list(found, "nothing")
    )]
    NoPictures {
        /// The folder, or the CSV file.
        path: PathBuf,
        /// Some of the names in it.
        found: Vec<String>,
    },
    /// No parquet file of a training split.
    #[error("{place}: expected parquet files of a split called train, got {}", list(found, "none"))]
    NoTables {
        /// The folder, or the hub's dataset.
        place: String,
        /// The files found.
        found: Vec<String>,
    },
    /// A configuration that the dataset does not have.
    #[error("{place}: expected one of the configurations {}, got {asked}", list(found, "none"))]
    Configuration {
        /// The folder, or the hub's dataset.
        place: String,
        /// The requested configuration.
        asked: String,
        /// The configurations it has.
        found: Vec<String>,
    },
    /// A class of the training split has no picture.
    #[error("{}: expected pictures of each class, got none of {class:?}", path.display())]
    EmptyClass {
        /// The training split.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// Too few or too many classes.
    #[error("{}: expected 2 to {most} classes, got {got}, the first {first:?}", path.display())]
    Classes {
        /// The training split.
        path: PathBuf,
        /// The most that are allowed.
        most: usize,
        /// The number found.
        got: usize,
        /// The first class.
        first: String,
    },
    /// A class that is missing from the training split.
    #[error("{}: expected the classes of the training split, got {class:?} too", path.display())]
    UntrainedClass {
        /// The other split.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// The name of a class folder is not UTF-8.
    #[error("expected a name in UTF-8 for a class, got {}", path.display())]
    NoText {
        /// The folder.
        path: PathBuf,
    },
    /// A line of a CSV file is wrong.
    #[error("{}:{line}: expected {expected}, got {got}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Expected content.
        expected: &'static str,
        /// Actual content.
        got: String,
    },
    /// An augmentation setting is out of range.
    #[error("expected augment.{field} {expected}, got {value}")]
    Augment {
        /// The setting.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        value: f64,
    },
    /// A normalisation setting is out of range.
    #[error("expected {field} of {expected}, got {got}")]
    Normalization {
        /// The setting.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        got: String,
    },
    /// The file could not be opened, read or unpacked.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's or the decompressor's error.
        source: std::io::Error,
    },
    /// The file is of the wrong kind.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The expected kind.
        expected: &'static str,
        /// The actual kind.
        got: String,
    },
    /// After the announced data, a gzipped file neither ends nor has another member.
    #[error(
        "{}: expected the gzip stream to end after its checksum, got other bytes behind it or none", path.display()
    )]
    GzipEnd {
        /// The file.
        path: PathBuf,
        /// The decompressor's error.
        source: std::io::Error,
    },
    /// The header announces no images, or images without pixels.
    #[error(
        "{}: expected at least 1 image of at least 1x1 px, got {count} of {height}x{width} px",
        path.display()
    )]
    NoPixels {
        /// The file.
        path: PathBuf,
        /// Number of images, from the header.
        count: u32,
        /// Rows of an image, from the header.
        height: u32,
        /// Columns of an image, from the header.
        width: u32,
    },
    /// The header announces more data than the limit.
    #[error(
        "{}: expected at most {limit} bytes of pixels, got {count} images of {height}x{width} px",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit of pixel bytes.
        limit: u64,
        /// Number of images, from the header.
        count: u32,
        /// Rows of an image, from the header.
        height: u32,
        /// Columns of an image, from the header.
        width: u32,
    },
    /// The file ends within the header or within the announced data.
    #[error("{}: expected {expected} bytes (unpacked), got {got}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Unpacked bytes of the whole file, or of the header if that is incomplete.
        expected: u64,
        /// Unpacked bytes in the file.
        got: u64,
    },
    /// The header of a gzipped file announces far more than its size can hold.
    #[error(
        "{}: expected at most {limit} bytes unpacked, got a header that announces {expected}",
        path.display()
    )]
    TooPacked {
        /// The file.
        path: PathBuf,
        /// 16 times the file's size, or 64 MiB if that is more.
        limit: u64,
        /// Unpacked bytes of the whole file, from the header.
        expected: u64,
    },
    /// The file has bytes after the announced data.
    #[error("{}: expected {expected} bytes (unpacked), got more", path.display())]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Unpacked bytes of the whole file, from the header.
        expected: u64,
    },
    /// A test label is not a class of the training split.
    #[error(
        "{}: expected labels below {classes} as in the training split, got {got} at index {index}", path.display()
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// The number of classes.
        classes: usize,
        /// The index of the first such label.
        index: usize,
        /// The label.
        got: u8,
    },
    /// The numbers of images and labels differ.
    #[error(
        "expected a label for each of the {image_count} images of {}, got {label_count} in {}",
        images.display(), labels.display()
    )]
    Counts {
        /// The file of images.
        images: PathBuf,
        /// The file of labels.
        labels: PathBuf,
        /// How many images there are.
        image_count: usize,
        /// How many labels there are.
        label_count: usize,
    },
    /// Training and test images differ in size.
    #[error(
        "{}: expected images of {} as in the training split, got {}",
        path.display(), size(*expected), size(*got)
    )]
    Sizes {
        /// The file of test images.
        path: PathBuf,
        /// Channels, height and width of the training images.
        expected: (usize, usize, usize),
        /// Channels, height and width of the test images.
        got: (usize, usize, usize),
    },
    /// The tensors do not form a dataset.
    #[error("{tensor}: expected {expected}, got {got}")]
    Tensors {
        /// The field of `vision::Dataset`.
        tensor: &'static str,
        /// The expected dtype and shape.
        expected: String,
        /// The actual dtype and shape.
        got: String,
    },
    /// A dataset cannot be loaded from the hub.
    #[error("cannot get {name} from the hub: {message}")]
    HubDataset {
        /// The dataset.
        name: String,
        /// The hub client's error.
        message: String,
    },
    /// MNIST cannot be loaded from the hub, or what came is not MNIST.
    #[error("cannot load MNIST from the hub: {message}")]
    Hub {
        /// The error of the hub's client or of the image decoder.
        message: String,
    },
    /// Pictures cannot be decoded.
    #[error("{} of {of} pictures cannot be read: {}", pictures.len(), first(pictures))]
    Unreadables {
        /// Each with its error.
        pictures: Vec<(PathBuf, String)>,
        /// The number of all pictures.
        of: usize,
    },
    /// Error of a picture or of the picture cache.
    #[error(transparent)]
    Picture(#[from] vit_pictures::Error),
    /// Error of the cache directory.
    #[error(transparent)]
    Files(#[from] vit_files::Error),
    /// Error of a tensor.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A shape (channels, height, width) as text.
fn size((channels, height, width): (usize, usize, usize)) -> String {
    let colour = if channels == 1 { String::new() } else { format!(" with {channels} channels") };
    format!("{height}x{width} px{colour}")
}

/// The first ten, with their errors.
fn first(pictures: &[(PathBuf, String)]) -> String {
    const SHOWN: usize = 10;
    let shown = pictures.iter().take(SHOWN);
    let shown: Vec<String> =
        shown.map(|(path, reason)| format!("{} ({reason})", path.display())).collect();
    let more = if pictures.len() > SHOWN { ", ..." } else { "" };
    shown.join(", ") + more
}

fn folders(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(" or ")
}

/// The first of these names, and the number of the others.
fn list(names: &[String], none: &str) -> String {
    const SHOWN: usize = 5;
    if names.is_empty() {
        return none.to_owned();
    }
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
