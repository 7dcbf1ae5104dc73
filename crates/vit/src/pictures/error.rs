//! Why bytes are no picture; `failure` says it.

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
