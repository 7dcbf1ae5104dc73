//! A file's bytes as a picture that stands upright. What the file announces is checked before it costs memory.

mod guarded;
mod jpeg;
mod other;
mod png;
mod raw;
mod upright;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ::image::{ImageFormat, Luma, Rgb};
use vit_files::open_file;

use crate::{Error, Picture, Shrunk};
use guarded::guarded;
use raw::Raw;
pub(crate) use upright::{upright, upright_size};

/// The colour that transparent pixels are laid over, RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Background(pub [u8; 3]);

impl Background {
    /// White.
    pub const WHITE: Self = Self([255; 3]);
    /// Black.
    pub const BLACK: Self = Self([0; 3]);
}

/// How a file becomes a [`Picture`].
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

/// Decodes a PNG, JPEG, WebP, GIF (its first frame) or BMP picture, told apart by content.
///
/// The picture stands upright by its EXIF orientation. Transparency is laid over [`DecodeOptions::background`], 16 bits
/// are rounded to 8, palettes and CMYK become RGB. Colour profiles are ignored, as Pillow does.
///
/// Pillow equivalent: `ImageOps.exif_transpose(Image.open(file)).convert("RGB")`, without transparency.
///
/// # Errors
/// If the bytes are no such picture, not whole, or too large for the options.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Picture, Error> {
    let form = form(bytes)?;
    let decoded = guarded(|| match form {
        ImageFormat::Png => png::decode_raw(bytes, options),
        ImageFormat::Jpeg => jpeg::decode_raw(bytes, options),
        form => other::decode(bytes, form, options.most_pixels),
    });
    let Raw { pixels, samples, size, orientation } = decoded.unwrap_or(Err(Error::DecoderFails))?;
    let own = if samples < 3 { 1 } else { 3 };
    let channels = options.channels.unwrap_or(own);
    // Grey over a colour is a colour.
    let flat_in = if samples == 2 && channels == 3 { 3 } else { own };
    let pixels = raw::flatten(pixels, samples, flat_in, options.background);
    let (width, height) = size;
    let (pixels, (width, height)) = if flat_in == 1 {
        upright::<Luma<u8>>(pixels, (width, height), orientation)
    } else {
        upright::<Rgb<u8>>(pixels, (width, height), orientation)
    };
    let picture = Picture::new(pixels, flat_in, (height as usize, width as usize))?;
    Ok(picture.to_channels(channels))
}

/// Reads and decodes a file; see [`decode`].
///
/// # Errors
/// If it cannot be read, is longer than 64 MiB, or cannot be decoded; the error names the file.
pub fn decode_file(path: &Path, options: &DecodeOptions) -> Result<Picture, Error> {
    let bytes = open_file(path).map_err(Error::from).and_then(file_bytes);
    let picture = bytes.and_then(|bytes| decode(&bytes, options));
    picture.map_err(|source| Error::File { path: path.to_owned(), source: source.into() })
}

/// The longest file that is read: several times what a camera makes.
pub const MOST_BYTES: u64 = 64 << 20;

/// A picture file's bytes. No more memory is taken than it has bytes.
///
/// # Errors
/// If it cannot be read or is longer than 64 MiB.
pub fn file_bytes(file: File) -> Result<Vec<u8>, Error> {
    let length = file.metadata()?.len();
    if length > MOST_BYTES {
        return Err(Error::TooManyBytes { most: MOST_BYTES });
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Decodes a picture to planes of numbers; one whose longest side is `least` or more is shrunk to no less than that while it
/// is decoded, so that its noise averages out.
///
/// # Errors
/// If the bytes are no picture, not whole, or too large.
pub fn shrink(bytes: &[u8], least: u32) -> Result<Shrunk, Error> {
    let form = form(bytes)?;
    let decoded = guarded(|| match form {
        ImageFormat::Png => png::shrink(bytes, least),
        ImageFormat::Jpeg => jpeg::shrink(bytes, least),
        form => Ok(other::decode(bytes, form, u64::MAX)?.shrunk(least)),
    });
    decoded.unwrap_or(Err(Error::DecoderFails))
}

/// By content: a name can lie.
fn form(bytes: &[u8]) -> Result<ImageFormat, Error> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    match ::image::guess_format(bytes) {
        Ok(form @ (Png | Jpeg | WebP | Gif | Bmp)) => Ok(form),
        _ => Err(Error::Format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plane;
    use crate::shrunk::{Kind, Rows, Shrinking};
    use ::image::metadata::Orientation;
    use std::fs;

    /// What Pillow makes of a JPEG file lies beside it as PNG, in the folder that `tests/reference/picture_fixtures.py` writes.
    #[test]
    fn jpeg_of_every_form_is_what_libjpeg_makes_of_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/jpeg");
        // As large as it is, and at half of that.
        for (least, shrunk, bound) in [(256, (93, 61), 0.03), (40, (47, 31), 0.04)] {
            for name in ["444", "422", "420", "progressive", "restarts", "grey", "cmyk"] {
                let planes = |end: &str| {
                    let bytes = fs::read(folder.join(format!("{name}.{end}"))).expect("a fixture");
                    let decoded = shrink(&bytes, least).expect("a picture");
                    assert_eq!(decoded.upright_size(), (93, 61));
                    decoded.planes(3)
                };
                for (plane, expected) in planes("jpg").iter().zip(&planes("png")) {
                    assert_eq!((plane.dimensions(), expected.dimensions()), (shrunk, shrunk));
                    let differences = plane.iter().zip(expected.iter());
                    let differences = differences.map(|(value, other)| (value - other).abs());
                    let largest = differences.clone().fold(0.0, f32::max);
                    let mean = differences.sum::<f32>() / plane.len() as f32;
                    assert!(largest < bound && mean < bound / 8.0, "{name}: {largest}, {mean}");
                }
            }
        }
    }

    /// By Adobe's marker, where the names of the components say otherwise and there is no JFIF.
    #[test]
    fn red_green_and_blue_are_what_they_are() {
        let path = "../../tests/fixtures/jpeg/444.jpg";
        let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a fixture");
        let jfif = whole.windows(2).position(|pair| pair == [0xFF, 0xE0]).expect("JFIF");
        let length = usize::from(u16::from_be_bytes([whole[jfif + 2], whole[jfif + 3]]));
        let rest = &whole[jfif + 2 + length..];
        let adobe = |transform| {
            let marker = [&b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"[..], &[transform]].concat();
            shrink(&[&whole[..jfif], &marker, rest].concat(), 256).expect("a picture").planes(3)
        };
        let as_before = shrink(&whole, 256).expect("a picture").planes(3);
        assert_eq!(adobe(1), as_before);
        let [red, blue] = [&adobe(0)[0], &adobe(0)[2]];
        // What was light is red, and what was little colour is half of green and blue.
        let mean = |plane: &Plane| plane.iter().sum::<f32>() / plane.len() as f32;
        assert!(mean(red) > 0.5 && (mean(blue) - 0.5).abs() < 0.1, "{}", mean(blue));
    }

    #[test]
    fn a_picture_is_turned_as_image_turns_it() {
        let (width, height) = (3, 2);
        let bytes: Vec<u8> = (0..6).collect();
        let picture = ::image::GrayImage::from_raw(width, height, bytes.clone()).expect("3 by 2");
        for code in 1..=8 {
            let orientation = Orientation::from_exif(code);
            let mut pixels = Shrinking::new((width, height), Kind { samples: 1, most: 255 }, 256);
            for (y, row) in (0..).zip(bytes.chunks(3)) {
                pixels.add_row(y, 0..width, row.iter().copied().map(u16::from));
            }
            let decoded = Shrunk { size: (width, height), pixels, orientation };
            let mut expected = ::image::DynamicImage::from(picture.clone());
            expected.apply_orientation(orientation.expect("one of eight"));
            let plane = decoded.planes(1).remove(0);
            assert_eq!(plane.dimensions(), decoded.upright_size());
            let turned: Vec<u8> = plane.iter().map(|value| (value * 255.0).round() as u8).collect();
            assert_eq!(turned, expected.into_bytes(), "{code}");
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MOST_BYTES).unwrap();
        let bytes = file_bytes(file.try_clone().unwrap()).unwrap();
        assert_eq!(bytes.len() as u64, MOST_BYTES);
        file.set_len(MOST_BYTES + 1).unwrap();
        assert!(matches!(file_bytes(file), Err(Error::TooManyBytes { .. })));
    }
}
