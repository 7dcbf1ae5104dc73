//! Pixels from a decoder: bytes, with or without opacity.

use ::image::metadata::Orientation;

use crate::Background;
use crate::picture::luma;
use crate::shrunk::{Kind, Rows, Shrinking, Shrunk};

/// Interleaved bytes of 1 (grey), 2 (grey, opacity), 3 (RGB) or 4 (RGB, opacity) samples a pixel.
pub(super) struct Raw {
    pub(super) pixels: Vec<u8>,
    pub(super) samples: usize,
    /// Width and height in the file.
    pub(super) size: (u32, u32),
    /// Orientation still to be applied.
    pub(super) orientation: Option<Orientation>,
}

impl Raw {
    pub(super) fn shrunk(&self, least: u32) -> Shrunk {
        let kind = Kind { samples: self.samples, most: 255 };
        let mut pixels = Shrinking::new(self.size, kind, least);
        let rows = self.pixels.chunks_exact(self.size.0 as usize * self.samples);
        for (y, row) in (0..).zip(rows) {
            pixels.add_row(y, 0..self.size.0, row.iter().copied().map(u16::from));
        }
        Shrunk { size: self.size, pixels, orientation: self.orientation }
    }
}

/// Collects whole rows, each sample rounded to a byte.
pub(super) struct Whole {
    pub(super) pixels: Vec<u8>,
    pub(super) kind: Kind,
    width: usize,
}

impl Whole {
    pub(super) fn new((width, height): (u32, u32), kind: Kind) -> Self {
        let pixels = vec![0; width as usize * height as usize * kind.samples];
        Self { pixels, kind, width: width as usize }
    }
}

impl Rows for Whole {
    fn add_row(
        &mut self,
        y: u32,
        columns: impl Iterator<Item = u32>,
        mut samples: impl Iterator<Item = u16>,
    ) {
        let row = self.width * self.kind.samples;
        let row = &mut self.pixels[y as usize * row..][..row];
        let is_wide = self.kind.most > 255;
        for x in columns {
            for byte in &mut row[x as usize * self.kind.samples..][..self.kind.samples] {
                let sample = samples.next().unwrap_or_default();
                // Exact: 65535 is 255 * 257.
                *byte =
                    if is_wide { ((u32::from(sample) + 128) / 257) as u8 } else { sample as u8 };
            }
        }
    }
}

/// Blends pixels over the background, giving 1 (grey) or 3 channels.
pub(super) fn flatten(
    mut pixels: Vec<u8>,
    samples: usize,
    channels: usize,
    Background(background): Background,
) -> Vec<u8> {
    match (samples, channels) {
        (2, 1) => {
            let ground = luma(background);
            let count = pixels.len() / 2;
            for at in 0..count {
                pixels[at] = over(pixels[2 * at], pixels[2 * at + 1], ground);
            }
            pixels.truncate(count);
        }
        (2, 3) => {
            let pairs = pixels.as_chunks::<2>().0.iter();
            return pairs
                .flat_map(|&[grey, alpha]| background.map(|ground| over(grey, alpha, ground)))
                .collect();
        }
        (4, 3) => {
            let count = pixels.len() / 4;
            for at in 0..count {
                let alpha = pixels[4 * at + 3];
                for (channel, ground) in background.into_iter().enumerate() {
                    pixels[3 * at + channel] = over(pixels[4 * at + channel], alpha, ground);
                }
            }
            pixels.truncate(3 * count);
        }
        _ => {}
    }
    pixels
}

/// `(light alpha + ground (255 - alpha)) / 255`, rounded.
fn over(light: u8, alpha: u8, ground: u8) -> u8 {
    let [light, alpha, ground] = [light, alpha, ground].map(u32::from);
    ((light * alpha + ground * (255 - alpha) + 127) / 255) as u8
}
