//! Options for decoding files.

/// The colour behind transparent pixels, RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Background(pub [u8; 3]);

impl Background {
    /// White.
    pub const WHITE: Self = Self([255; 3]);
    /// Black.
    pub const BLACK: Self = Self([0; 3]);
}

/// Options for decoding a file to a [`Picture`](crate::Picture).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// 1 (grey) or 3 (RGB); `None` keeps the file's. Default: `Some(3)`.
    pub channels: Option<usize>,
    /// The colour behind transparent pixels. Default: white.
    pub background: Background,
    /// Allows a smaller picture, with the same proportions, as long as its shorter side keeps this many pixels: a large
    /// JPEG is then decoded at 1/2, 1/4 or 1/8 (Pillow equivalent: `Image.draft`), and a picture above `most_pixels` is
    /// averaged down while it is decoded. Default: `None`, full size.
    pub at_least: Option<u32>,
    /// Limit of decoded pixels, 4 bytes each. Default: 12 Mi.
    pub most_pixels: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        let background = Background::WHITE;
        Self { channels: Some(3), background, at_least: None, most_pixels: 12 << 20 }
    }
}
