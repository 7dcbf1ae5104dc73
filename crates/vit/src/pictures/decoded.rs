//! A picture whose pixels are known, as it lies in its file and upright.

use image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};
use image::metadata::Orientation;

use super::error::Error;
use super::planes::{Plane, Shrinking};

/// 8192 x 8192: more than cameras make.
const MOST_PIXELS: u64 = 1 << 26;
/// As a JPEG file can say. Rows are decoded whole.
const LONGEST_SIDE: u32 = 0xFFFF;

/// A picture as it lies in its file.
pub(super) struct Decoded {
    /// Width and height, in the file.
    pub(super) size: (u32, u32),
    pub(super) pixels: Shrinking,
    /// How it is to be turned.
    pub(super) orientation: Option<Orientation>,
}

/// Refuses what is larger than any picture.
pub(super) fn check_size((width, height): (u32, u32)) -> Result<(), Error> {
    if width.max(height) > LONGEST_SIDE {
        return Err(Error::TooLong { most: LONGEST_SIDE, width, height });
    }
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(Error::TooLarge { most: MOST_PIXELS, width, height });
    }
    Ok(())
}

impl Decoded {
    /// Width and height of the picture when it stands upright.
    pub(super) fn upright_size(&self) -> (u32, u32) {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let (width, height) = self.size;
        match self.orientation {
            Some(Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) => (height, width),
            _ => (width, height),
        }
    }

    /// The planes, upright, one of grey or three of colour.
    pub(super) fn planes(&self, channels: usize) -> Vec<Plane> {
        let planes = self.pixels.planes(channels).into_iter();
        planes.map(|plane| upright(plane, self.orientation)).collect()
    }
}

fn upright(plane: Plane, orientation: Option<Orientation>) -> Plane {
    match orientation {
        None | Some(Orientation::NoTransforms) => plane,
        Some(Orientation::Rotate90) => rotate90(&plane),
        Some(Orientation::Rotate180) => rotate180(&plane),
        Some(Orientation::Rotate270) => rotate270(&plane),
        Some(Orientation::FlipHorizontal) => flip_horizontal(&plane),
        Some(Orientation::FlipVertical) => flip_vertical(&plane),
        Some(Orientation::Rotate90FlipH) => flip_horizontal(&rotate90(&plane)),
        Some(Orientation::Rotate270FlipH) => flip_horizontal(&rotate270(&plane)),
    }
}
