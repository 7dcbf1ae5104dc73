//! Why bytes are no picture; `failure` says it.

use image::ImageError;

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
    Undecodable(ImageError),
    /// It panics.
    DecoderFails,
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        Self::Undecodable(error)
    }
}
