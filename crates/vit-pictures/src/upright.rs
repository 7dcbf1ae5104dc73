//! Applying the EXIF orientation, and size limits.

use image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};
use image::metadata::Orientation;
use image::{ImageBuffer, Pixel};

use crate::Error;

/// 8192 x 8192: more than cameras make.
const MOST_PIXELS: u64 = 1 << 26;
/// The maximum in a JPEG file. Rows are decoded whole.
const LONGEST_SIDE: u32 = 0xFFFF;

/// Rejects pictures beyond the size limits.
pub(crate) fn check_size((width, height): (u32, u32)) -> Result<(), Error> {
    if width.max(height) > LONGEST_SIDE {
        return Err(Error::TooLong { most: LONGEST_SIDE, width, height });
    }
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(Error::TooLarge { most: MOST_PIXELS, width, height });
    }
    Ok(())
}

/// Rejects pictures that need too much memory in this form.
pub(crate) fn check_form(
    form: &'static str,
    (width, height): (u32, u32),
    most: u64,
) -> Result<(), Error> {
    if u64::from(width) * u64::from(height) > most {
        return Err(Error::TooLargeForm { form, most, width, height });
    }
    Ok(())
}

/// Upright pixels, with width and height.
pub(crate) fn upright<P: Pixel + 'static>(
    pixels: Vec<P::Subpixel>,
    (width, height): (u32, u32),
    orientation: Option<Orientation>,
) -> (Vec<P::Subpixel>, (u32, u32)) {
    let Some(orientation) = orientation.filter(|&turn| turn != Orientation::NoTransforms) else {
        return (pixels, (width, height));
    };
    let picture = ImageBuffer::<P, _>::from_raw(width, height, pixels);
    let picture = picture.expect("as many pixels as its size has");
    let turned = match orientation {
        Orientation::NoTransforms => picture,
        Orientation::Rotate90 => rotate90(&picture),
        Orientation::Rotate180 => rotate180(&picture),
        Orientation::Rotate270 => rotate270(&picture),
        Orientation::FlipHorizontal => flip_horizontal(&picture),
        Orientation::FlipVertical => flip_vertical(&picture),
        Orientation::Rotate90FlipH => flip_horizontal(&rotate90(&picture)),
        Orientation::Rotate270FlipH => flip_horizontal(&rotate270(&picture)),
    };
    let size = turned.dimensions();
    (turned.into_raw(), size)
}

/// Width and height after applying the orientation.
pub(crate) fn upright_size(
    (width, height): (u32, u32),
    orientation: Option<Orientation>,
) -> (u32, u32) {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    match orientation {
        Some(Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) => (height, width),
        _ => (width, height),
    }
}
