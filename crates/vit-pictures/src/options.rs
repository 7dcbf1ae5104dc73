//! How files are decoded.

/// The colour that transparent pixels are laid over, RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Background(pub [u8; 3]);

impl Background {
    /// White.
    pub const WHITE: Self = Self([255; 3]);
    /// Black.
    pub const BLACK: Self = Self([0; 3]);
}

/// How a file becomes a [`Picture`](crate::Picture).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// 1 (grey) or 3 (RGB); `None` as the file has it. Default: `Some(3)`.
    pub channels: Option<usize>,
    /// What transparent pixels are laid over. Default: white.
    pub background: Background,
    /// The picture may come smaller, in its proportions, as long as its shorter side has this many pixels: a large JPEG is
    /// then decoded at 1/2, 1/4 or 1/8 (Pillow equivalent: `Image.draft`), and what exceeds `most_pixels` is averaged over
    /// squares while it is decoded. Default: `None`, each pixel as it is.
    pub at_least: Option<u32>,
    /// The most pixels that are kept, 4 bytes each. Default: 12 Mi.
    pub most_pixels: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        let background = Background::WHITE;
        Self { channels: Some(3), background, at_least: None, most_pixels: 12 << 20 }
    }
}
