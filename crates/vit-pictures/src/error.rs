//! Why there is no picture.

use std::io;
use std::path::PathBuf;

/// A picture or a cache of pictures that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are in no format that is read here.
    #[error("expected a PNG, JPEG, WebP, GIF or BMP picture, got something else")]
    Format,
    /// A picture announces more pixels than any camera makes.
    #[error("expected at most {} pixels, got {width}x{height}", thousands(*most))]
    TooLarge {
        /// Pixels.
        most: u64,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A picture announces more pixels than its form can be decoded to within bounded memory.
    #[error("expected at most {} pixels of {form}, got {width}x{height}", thousands(*most))]
    TooLargeForm {
        /// `a progressive JPEG`, ...
        form: &'static str,
        /// Pixels.
        most: u64,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A side is longer than in any picture.
    #[error("expected sides of at most {} pixels, got {width}x{height}", thousands((*most).into()))]
    TooLong {
        /// Pixels of a side.
        most: u32,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The file has no end.
    #[error("the picture is cut off: it has no end")]
    CutOff,
    /// The file has too few bytes for the pixels that it announces.
    #[error("{} bytes cannot hold the {width}x{height} px they announce", thousands(*length))]
    TooShort {
        /// Bytes.
        length: u64,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The decoder's own error.
    #[error(transparent)]
    Undecodable(Box<dyn std::error::Error + Send + Sync>),
    /// The decoder panics.
    #[error("the decoder fails at this picture")]
    DecoderFails,
    /// A file is longer than any picture.
    #[error("expected a picture of at most {} MiB, got a longer file", most >> 20)]
    TooManyBytes {
        /// Bytes.
        most: u64,
    },
    /// A file cannot be read.
    #[error("cannot read the file")]
    Io(#[from] io::Error),
    /// Pixels do not have the shape they are given.
    #[error("expected {channels} channels (1 or 3) x {height} x {width} pixels, got {got} values")]
    Shape {
        /// Values of a pixel.
        channels: usize,
        /// Rows.
        height: usize,
        /// Pixels in a row.
        width: usize,
        /// Values.
        got: usize,
    },
    /// A setting of a view is out of range.
    #[error("{name}: expected {expected}, got {got}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        got: String,
    },
    /// A picture's file, and why it is no picture.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// A cache cannot be used.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Cache {
        /// The cache's file.
        path: PathBuf,
        /// What a whole cache of these pictures has.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A cache cannot be written or read.
    #[error(transparent)]
    Disk(#[from] vit_files::Error),
    /// Making a cache was stopped.
    #[error("the cache of pictures was stopped before it was whole")]
    Stopped,
}

impl Error {
    /// What helps, if anything is known to.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Format => Some("convert it to PNG first"),
            Self::TooLarge { .. } => Some("scale it down first"),
            Self::TooLargeForm { .. } => {
                Some("save it as PNG or as a baseline JPEG, or scale it down")
            }
            Self::TooLong { .. } => Some("cut it, or scale it down first"),
            Self::DecoderFails => Some("open it elsewhere and save it anew"),
            Self::File { source, .. } => source.hint(),
            Self::Cache { .. } => Some("remove the file; it is made again from the pictures"),
            _ => None,
        }
    }
}

impl From<png::DecodingError> for Error {
    fn from(error: png::DecodingError) -> Self {
        Self::Undecodable(error.into())
    }
}

impl From<jpeg_decoder::Error> for Error {
    fn from(error: jpeg_decoder::Error) -> Self {
        Self::Undecodable(error.into())
    }
}

impl From<libjpeg_turbo_rs::JpegError> for Error {
    fn from(error: libjpeg_turbo_rs::JpegError) -> Self {
        Self::Undecodable(error.into())
    }
}

impl From<image::ImageError> for Error {
    fn from(error: image::ImageError) -> Self {
        Self::Undecodable(error.into())
    }
}

/// `67108864` as `67,108,864`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().flat_map(std::str::from_utf8).collect();
    groups.join(",")
}
