//! What can be wrong with a dataset.

use std::path::PathBuf;

/// A result whose error is this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a dataset, with the file, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of the four files of a dataset is not there.
    #[error(
        "expected {file} (or the same with .gz) in {}, got {}",
        folders(looked_in),
        list(found, "no file")
    )]
    Absent {
        /// The file's usual name.
        file: &'static str,
        /// The folders that were looked in.
        looked_in: Vec<PathBuf>,
        /// Names of what lies in the first, some of them.
        found: Vec<String>,
    },
    /// A folder holds the files of several datasets.
    #[error("{}: expected the files of one dataset, got those of {}", path.display(), list(found, "none"))]
    Several {
        /// The folder.
        path: PathBuf,
        /// What the names of each dataset's files begin with.
        found: Vec<String>,
    },
    /// No picture where classes are looked for.
    #[error(
        "{}: expected a folder of pictures for each class, got {}", path.display(), list(found, "nothing")
    )]
    NoPictures {
        /// The folder, or the CSV file.
        path: PathBuf,
        /// Names of what lies in it, some of them.
        found: Vec<String>,
    },
    /// No parquet file of a training part.
    #[error("{place}: expected parquet files of a part called train, got {}", list(found, "none"))]
    NoTables {
        /// The folder, or the dataset of the hub.
        place: String,
        /// The files that are there.
        found: Vec<String>,
    },
    /// A configuration that is not there.
    #[error("{place}: expected one of the configurations {}, got {asked}", list(found, "none"))]
    Configuration {
        /// The folder, or the dataset of the hub.
        place: String,
        /// What was asked for.
        asked: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// A class of the training part has no picture.
    #[error("{}: expected pictures of each class, got none of {class:?}", path.display())]
    EmptyClass {
        /// The training part.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// Too few or too many classes.
    #[error("{}: expected 2 to {most} classes, got {got}, the first {first:?}", path.display())]
    Classes {
        /// The training part.
        path: PathBuf,
        /// How many there may be.
        most: usize,
        /// How many there are.
        got: usize,
        /// The first.
        first: String,
    },
    /// A class of another part that the training part lacks.
    #[error("{}: expected the classes of the training part, got {class:?} too", path.display())]
    UntrainedClass {
        /// The other part.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// A folder's name, which would be a class's, is not UTF-8.
    #[error("expected a name in UTF-8 for a class, got {}", path.display())]
    NoText {
        /// The folder.
        path: PathBuf,
    },
    /// A line of a CSV file.
    #[error("{}:{line}: expected {expected}, got {got}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A setting of augmentation out of range.
    #[error("expected augment.{field} {expected}, got {value}")]
    Augment {
        /// The setting.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// Its value.
        value: f64,
    },
    /// A setting of the normalisation out of range.
    #[error("expected {field} of {expected}, got {got}")]
    Normalization {
        /// The setting.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// Its value.
        got: String,
    },
    /// The file could not be opened, read or unpacked.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system, or the decompressor, said.
        source: std::io::Error,
    },
    /// The file is of another kind.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
        /// What the file is.
        got: String,
    },
    /// A gzipped file neither ends nor goes on as one where all that its header announces has been read.
    #[error(
        "{}: expected the gzip stream to end after its checksum, got other bytes behind it or none", path.display()
    )]
    GzipEnd {
        /// The file.
        path: PathBuf,
        /// What the decompressor said.
        source: std::io::Error,
    },
    /// The header announces no image, or images without pixels.
    #[error(
        "{}: expected at least 1 image of at least 1x1 px, got {count} of {height}x{width} px",
        path.display()
    )]
    NoPixels {
        /// The file.
        path: PathBuf,
        /// Images, as the header says.
        count: u32,
        /// Rows of an image, as the header says.
        height: u32,
        /// Columns of an image, as the header says.
        width: u32,
    },
    /// The header announces more than this crate reads into memory.
    #[error(
        "{}: expected at most {limit} bytes of pixels, got {count} images of {height}x{width} px",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes of pixels that are read.
        limit: u64,
        /// Images, as the header says.
        count: u32,
        /// Rows of an image, as the header says.
        height: u32,
        /// Columns of an image, as the header says.
        width: u32,
    },
    /// The file ends before what its header announces, or within the header.
    #[error("{}: expected {expected} bytes (unpacked), got {got}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes of the whole file, or of the header where that is incomplete; unpacked.
        expected: u64,
        /// Bytes that the file holds, unpacked.
        got: u64,
    },
    /// A gzipped file that announces many times what it can be believed to hold.
    #[error(
        "{}: expected at most {limit} bytes unpacked, got a header that announces {expected}",
        path.display()
    )]
    TooPacked {
        /// The file.
        path: PathBuf,
        /// 16 times its size, or 64 MiB if that is more.
        limit: u64,
        /// Bytes of the whole file by its header, unpacked.
        expected: u64,
    },
    /// The file goes on after what its header announces.
    #[error("{}: expected {expected} bytes (unpacked), got more", path.display())]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Bytes of the whole file by its header, unpacked.
        expected: u64,
    },
    /// A test label is not one of the classes of the training set.
    #[error(
        "{}: expected labels below {classes} as in the training set, got {got} at index {index}", path.display()
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
    /// Images and labels differ in number.
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
        "{}: expected images of {} as in the training set, got {}",
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
    /// The tensors given for a dataset are not those of one.
    #[error("{tensor}: expected {expected}, got {got}")]
    Tensors {
        /// The field of `vision::Dataset`.
        tensor: &'static str,
        /// The type and shape that it must have.
        expected: String,
        /// The type and shape that it has.
        got: String,
    },
    /// A dataset of the hub could not be had.
    #[error("cannot get {name} from the hub: {message}")]
    HubDataset {
        /// The dataset.
        name: String,
        /// What the hub's client said.
        message: String,
    },
    /// The hub's copy could not be had, or is not MNIST.
    #[error("cannot load MNIST from the hub: {message}")]
    Hub {
        /// What the hub's client, or the decoder of its images, said.
        message: String,
    },
    /// Pictures that cannot be decoded.
    #[error("{} of {of} pictures cannot be read: {}", pictures.len(), first(pictures))]
    Unreadables {
        /// Each with what is wrong.
        pictures: Vec<(PathBuf, String)>,
        /// Of how many.
        of: usize,
    },
    /// A picture, or the cache of pictures.
    #[error(transparent)]
    Picture(#[from] vit_pictures::Error),
    /// The folder of the cache.
    #[error(transparent)]
    Files(#[from] vit_files::Error),
    /// A tensor could not be made or read.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A shape of (channels, height, width) in words.
fn size((channels, height, width): (usize, usize, usize)) -> String {
    let colour = if channels == 1 { String::new() } else { format!(" with {channels} channels") };
    format!("{height}x{width} px{colour}")
}

/// The first ten, with what is wrong.
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

/// The first of these names, and how many there are beside.
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
