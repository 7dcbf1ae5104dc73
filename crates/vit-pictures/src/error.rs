//! Errors of decoding and caching pictures.

use std::io;
use std::path::PathBuf;

/// An error of a picture or of a cache of pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The format is not supported.
    #[error("expected a PNG, JPEG, WebP, GIF or BMP picture, got something else")]
    Format,
    /// The picture announces more pixels than the limit.
    #[error("expected at most {} pixels, got {width}x{height}", thousands(*most))]
    TooLarge {
        /// The limit in pixels.
        most: u64,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The picture announces more pixels than its format can be decoded to in bounded memory.
    #[error("expected at most {} pixels of {form}, got {width}x{height}", thousands(*most))]
    TooLargeForm {
        /// The form, such as `a progressive JPEG`.
        form: &'static str,
        /// The limit in pixels.
        most: u64,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A side exceeds the limit.
    #[error("expected sides of at most {} pixels, got {width}x{height}", thousands((*most).into()))]
    TooLong {
        /// The limit in pixels.
        most: u32,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The file has no end marker.
    #[error("the picture is cut off: it has no end")]
    CutOff,
    /// The file is too short for the pixels it announces.
    #[error("{} bytes cannot hold the {width}x{height} px they announce", thousands(*length))]
    TooShort {
        /// Length of the file in bytes.
        length: u64,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The decoder's own error.
    #[error(transparent)]
    Undecodable(Box<dyn std::error::Error + Send + Sync>),
    /// The decoder panicked.
    #[error("the decoder fails at this picture")]
    DecoderFails,
    /// The file exceeds the size limit.
    #[error("expected a picture of at most {} MiB, got a longer file", most >> 20)]
    TooManyBytes {
        /// The limit in bytes.
        most: u64,
    },
    /// A file cannot be read.
    #[error("cannot read the file")]
    Io(#[from] io::Error),
    /// The number of pixels does not match the shape.
    #[error("expected {channels} channels (1 or 3) x {height} x {width} pixels, got {got} values")]
    Shape {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Pixels in a row.
        width: usize,
        /// Number of values.
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
    /// An error with the file it occurred in.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<Self>,
    },
    /// A cache is of no use here.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Cache {
        /// The cache's file.
        path: PathBuf,
        /// Expected value.
        expected: String,
        /// Actual value.
        got: String,
    },
    /// A cache cannot be written or read.
    #[error(transparent)]
    Disk(#[from] vit_files::Error),
    /// The caller stopped the building of a cache.
    #[error("building the cache of pictures was stopped")]
    Stopped,
}

impl Error {
    /// Advice, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Format => Some("convert it to PNG first"),
            Self::TooLarge { .. } => Some("scale it down first"),
            Self::TooLargeForm { .. } => {
                Some("save it as PNG or as a baseline JPEG, or scale it down")
            }
            Self::TooLong { .. } => Some("crop it or scale it down first"),
            Self::DecoderFails => Some("open it in another program and save it again"),
            Self::File { source, .. } => source.hint(),
            Self::Cache { .. } => Some("delete the file; it is rebuilt from the pictures"),
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
