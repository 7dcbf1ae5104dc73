//! Why bytes are no picture.

use crate::failure::{Exit, Failure, chain};
use crate::output::thousands;

#[derive(Debug)]
pub(crate) enum Error {
    /// Neither PNG nor JPEG.
    NoPicture,
    TooLarge {
        /// Pixels.
        most: u64,
        width: u32,
        height: u32,
    },
    /// What a progressive JPEG is decoded from is kept until its end.
    TooLargeProgressive {
        /// Pixels.
        most: u64,
        width: u32,
        height: u32,
    },
    TooLong {
        /// Pixels of a side.
        most: u32,
        width: u32,
        height: u32,
    },
    /// Without an end.
    CutOff,
    /// For the pixels that are announced.
    TooShort {
        /// Bytes.
        length: u64,
        width: u32,
        height: u32,
    },
    /// What the decoder says.
    Undecodable(Box<dyn std::error::Error + Send + Sync>),
    /// It panics.
    DecoderFails,
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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (message, hint) = match error {
            Error::NoPicture => (
                "expected a PNG or JPEG picture, got something else".to_owned(),
                Some("convert it to PNG first"),
            ),
            Error::TooLarge { most, width, height } => (
                format!("expected at most {} pixels, got {width}x{height}", thousands(most)),
                Some("scale it down first"),
            ),
            Error::TooLargeProgressive { most, width, height } => (
                format!(
                    "expected at most {} pixels of a progressive JPEG, got {width}x{height}",
                    thousands(most)
                ),
                Some("save it as PNG or as a baseline JPEG, or scale it down"),
            ),
            Error::TooLong { most, width, height } => (
                format!(
                    "expected sides of at most {} pixels, got {width}x{height}",
                    thousands(most.into())
                ),
                Some("cut it, or scale it down first"),
            ),
            Error::CutOff => ("the picture is cut off: it has no end".to_owned(), None),
            Error::TooShort { length, width, height } => {
                let length = thousands(length);
                let announced = format!("the {width}x{height} px they announce");
                (format!("{length} bytes cannot hold {announced}"), None)
            }
            Error::Undecodable(error) => (chain(&*error), None),
            Error::DecoderFails => (
                "the decoder fails at this picture".to_owned(),
                Some("open it elsewhere and save it anew"),
            ),
        };
        let failure = Self::new(Exit::Data, message);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
