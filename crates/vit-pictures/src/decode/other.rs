//! WebP, GIF and BMP, decoded at full size.

use std::io::Cursor;

use ::image::codecs::bmp::BmpDecoder;
use ::image::codecs::gif::GifDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::{ColorType, ImageDecoder, ImageFormat, Limits};

use super::raw::Raw;
use crate::Error;
use crate::upright::{check_form, check_size};

/// Memory limit of a decoder: up to 6 bytes a pixel for [`MOST_PIXELS`].
const MOST_BYTES: u64 = 48 << 20;
/// 8 Mi: these formats are not reduced while they are decoded.
const MOST_PIXELS: u64 = 8 << 20;

/// Decodes the first frame.
///
/// # Errors
/// If it is too large or incomplete.
pub(super) fn decode(bytes: &[u8], form: ImageFormat, most_pixels: u64) -> Result<Raw, Error> {
    let reader = Cursor::new(bytes);
    match form {
        ImageFormat::WebP => pixels("a WebP picture", WebPDecoder::new(reader)?, most_pixels),
        ImageFormat::Gif => pixels("a GIF picture", GifDecoder::new(reader)?, most_pixels),
        _ => pixels("a BMP picture", BmpDecoder::new(reader)?, most_pixels),
    }
}

fn pixels(
    form: &'static str,
    mut decoder: impl ImageDecoder,
    most_pixels: u64,
) -> Result<Raw, Error> {
    let size = decoder.dimensions();
    check_size(size)?;
    check_form(form, size, MOST_PIXELS.min(most_pixels))?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_BYTES);
    decoder.set_limits(limits)?;
    let samples = match decoder.color_type() {
        ColorType::L8 => 1,
        ColorType::La8 => 2,
        ColorType::Rgb8 => 3,
        ColorType::Rgba8 => 4,
        other => return Err(Error::Undecodable(format!("pixels are {other:?}").into())),
    };
    let orientation = decoder.orientation().ok();
    let mut pixels = vec![0; size.0 as usize * size.1 as usize * samples];
    decoder.read_image(&mut pixels)?;
    Ok(Raw { pixels, samples, size, orientation })
}
