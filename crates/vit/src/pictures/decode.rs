//! A file's bytes as a picture, which stands upright. What the file says of itself is checked before it costs memory.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::error::Error;
use super::guarded::guarded;

/// 8192 x 8192: more than cameras make.
const MOST_PIXELS: u64 = 1 << 26;
/// As many pixels of three bytes. A pixel may have up to eight.
const MOST_BYTES: u64 = 3 * MOST_PIXELS;

/// Decodes a PNG or JPEG picture, turned as its EXIF orientation says.
///
/// # Errors
/// If it is neither, not whole, or too large.
pub(super) fn decode(bytes: &[u8]) -> Result<DynamicImage, Error> {
    // By content: a name can lie.
    let format = image::guess_format(bytes).ok().filter(ImageFormat::reading_enabled);
    let format = format.ok_or(Error::NoPicture)?;
    guarded(|| decode_as(format, bytes)).unwrap_or(Err(Error::DecoderFails))
}

fn decode_as(format: ImageFormat, bytes: &[u8]) -> Result<DynamicImage, Error> {
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder()?;
    let (width, height) = decoder.dimensions();
    let bytes_per_pixel = u64::from(decoder.color_type().bytes_per_pixel());
    let most = MOST_PIXELS.min(MOST_BYTES / bytes_per_pixel);
    if u64::from(width) * u64::from(height) > most {
        return Err(Error::TooLarge { most, width, height });
    }
    if format == ImageFormat::Jpeg {
        check_jpeg(bytes, width, height)?;
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// The decoder fills with grey what a JPEG file lacks, and calls that a picture.
fn check_jpeg(bytes: &[u8], width: u32, height: u32) -> Result<(), Error> {
    if !ends_after_its_scan(bytes) {
        return Err(Error::CutOff);
    }
    // Each block of 8x8 pixels takes a bit or more.
    let blocks = u64::from(width.div_ceil(8)) * u64::from(height.div_ceil(8));
    if blocks > 8 * bytes.len() as u64 {
        return Err(Error::TooShort { length: bytes.len() as u64, width, height });
    }
    Ok(())
}

/// Whether an end of image (FF D9) follows the first start of scan (FF DA). Segments before that may hold thumbnails with
/// ends of their own; in a scan FF stands before markers and zeros alone.
fn ends_after_its_scan(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == 0xFF) {
        rest = &rest[at + 1..];
        match *rest {
            [0xDA, ref scan @ ..] => return scan.windows(2).any(|pair| pair == [0xFF, 0xD9]),
            // Filling, or markers that stand alone.
            [0x00 | 0x01 | 0xD0..=0xD8 | 0xFF, ..] => {}
            [_, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                rest = rest.get(1 + length..).unwrap_or_default();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_counts_after_the_scan_alone() {
        let thumbnail = [0xFF, 0xE1, 0, 6, 0xFF, 0xDA, 0xFF, 0xD9];
        let scan = [0xFF, 0xDA, 0, 2, 1, 0xFF, 0, 0xD9];
        let cut_off = [&[0xFF, 0xD8], &thumbnail[..], &scan].concat();
        assert!(!ends_after_its_scan(&cut_off));
        assert!(ends_after_its_scan(&[&cut_off[..], &[0xFF, 0xD9, 7]].concat()));
        assert!(!ends_after_its_scan(&cut_off[..4]));
        assert!(!ends_after_its_scan(&[]));
    }
}
