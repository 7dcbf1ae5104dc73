//! Decodes a file into an upright picture. Announced sizes are checked before memory is allocated.

mod guarded;
mod jpeg;
mod other;
mod png;
mod raw;
pub(crate) mod several;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ::image::{ImageFormat, Luma, Rgb};
use vit_files::open_file;

use crate::upright::upright;
use crate::{DecodeOptions, Error, Picture, Shrunk};
use guarded::guarded;
use raw::Raw;

/// Decodes a PNG, JPEG, WebP, GIF (first frame) or BMP picture, detected by content.
///
/// The EXIF orientation is applied. Transparent pixels are blended over [`DecodeOptions::background`], 16 bits are
/// rounded to 8, palettes and CMYK become RGB. Colour profiles are ignored, as in Pillow.
///
/// Pillow equivalent: `ImageOps.exif_transpose(Image.open(file)).convert("RGB")`, without transparency.
///
/// # Errors
/// If the bytes are not such a picture, incomplete, or too large for the options.
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
    // Grey blended over a colour has colour.
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

/// Size limit of a file: several times what a camera writes.
pub const MOST_BYTES: u64 = 64 << 20;

/// The bytes of a picture file. Allocates no more than the file's size.
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

/// Decodes a picture to planes of numbers. If its longest side is above `least`, it is averaged down while it is
/// decoded, to no less than `least`, which reduces noise.
///
/// # Errors
/// If the bytes are not a picture, incomplete, or too large.
pub fn shrink(bytes: &[u8], least: u32) -> Result<Shrunk, Error> {
    let form = form(bytes)?;
    let decoded = guarded(|| match form {
        ImageFormat::Png => png::shrink(bytes, least),
        ImageFormat::Jpeg => jpeg::shrink(bytes, least),
        form => Ok(other::decode(bytes, form, u64::MAX)?.shrunk(least)),
    });
    decoded.unwrap_or(Err(Error::DecoderFails))
}

/// By content; names can be wrong.
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
    use crate::shrunk::{Kind, Rows, Shrinking};
    use crate::{Background, Plane};
    use ::image::metadata::Orientation;
    use std::{fs, io};

    /// `tests/reference/picture_fixtures.py` stores Pillow's result beside each JPEG file, as PNG.
    #[test]
    fn jpeg_of_every_form_decodes_as_in_libjpeg() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/jpeg");
        // At full and at half scale.
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

    /// Declared by Adobe's marker, against the names of the components and without JFIF.
    #[test]
    fn adobe_marker_declares_rgb() {
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
        // Luma becomes red, and chroma near its middle becomes half of green and blue.
        let mean = |plane: &Plane| plane.iter().sum::<f32>() / plane.len() as f32;
        assert!(mean(red) > 0.5 && (mean(blue) - 0.5).abs() < 0.1, "{}", mean(blue));
    }

    #[test]
    fn orientation_matches_the_image_crate() {
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
    fn too_long_files_are_not_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MOST_BYTES).unwrap();
        let bytes = file_bytes(file.try_clone().unwrap()).unwrap();
        assert_eq!(bytes.len() as u64, MOST_BYTES);
        file.set_len(MOST_BYTES + 1).unwrap();
        assert!(matches!(file_bytes(file), Err(Error::TooManyBytes { .. })));
    }

    fn fixture(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        fs::read(folder.join(name)).unwrap()
    }

    const FORMS: [&str; 7] = [
        "views/rgba.png",
        "jpeg/420.jpg",
        "jpeg/progressive.jpg",
        "views/lossy.webp",
        "views/lossless-alpha.webp",
        "views/animated.gif",
        "views/colour.bmp",
    ];

    #[test]
    fn truncation_at_any_length_is_an_error() {
        for name in FORMS {
            let whole = fixture(name);
            assert!(decode(&whole, &DecodeOptions::default()).is_ok(), "{name}");
            // A first frame, or all but some padding at the end, may be complete.
            let end = if name.ends_with("gif") { whole.len() / 4 } else { whole.len() - 2 };
            for length in (0..end).step_by(7) {
                let cut = decode(&whole[..length], &DecodeOptions::default());
                assert!(cut.is_err(), "{name}, {length} of {}", whole.len());
            }
        }
    }

    #[test]
    fn changed_bytes_never_panic() {
        for name in FORMS {
            let whole = fixture(name);
            for at in (0..whole.len()).step_by(whole.len() / 150 + 1) {
                let mut changed = whole.clone();
                changed[at] ^= 0x5A;
                let decoded = decode(&changed, &DecodeOptions::default());
                assert!(!matches!(decoded, Err(Error::DecoderFails)), "{name} at {at}");
            }
        }
    }

    #[test]
    fn a_text_file_with_a_pictures_extension_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.png");
        fs::write(&path, "no picture").unwrap();
        let error = decode_file(&path, &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), path.display().to_string());
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "expected a PNG, JPEG, WebP, GIF or BMP picture, got something else");
        assert_eq!(error.hint(), Some("convert it to PNG first"));
        let absent = decode_file(&folder.path().join("absent"), &DecodeOptions::default());
        assert!(absent.unwrap_err().to_string().ends_with("absent"));
    }

    #[test]
    fn a_header_of_30000_by_30000_pixels_is_rejected() {
        let side = 30_000_u16;
        let (big, little) = (side.to_be_bytes(), side.to_le_bytes());
        let mut png = fixture("views/rgba.png");
        png[16..24].copy_from_slice(&[0, 0, big[0], big[1], 0, 0, big[0], big[1]]);
        let sum = crc32fast::hash(&png[12..29]).to_be_bytes();
        png[29..33].copy_from_slice(&sum);
        let mut jpeg = fixture("jpeg/420.jpg");
        let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[big, big].concat());
        let mut gif = fixture("views/animated.gif");
        gif[6..10].copy_from_slice(&[little, little].concat());
        let mut bmp = fixture("views/colour.bmp");
        let wide = [little[0], little[1], 0, 0];
        bmp[18..26].copy_from_slice(&[wide, wide].concat());
        for (name, bytes) in [("png", png), ("jpeg", jpeg), ("gif", gif), ("bmp", bmp)] {
            let error = decode(&bytes, &DecodeOptions::default()).unwrap_err();
            assert!(matches!(error, Error::TooLarge { .. }), "{name}: {error}");
        }
    }

    fn encoded(picture: &::image::DynamicImage, form: ImageFormat) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, form).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn one_pixel_decodes_in_every_format() {
        let pixel = ::image::DynamicImage::from(::image::RgbImage::from_pixel(1, 1, Rgb([90; 3])));
        for form in [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::WebP,
            ImageFormat::Gif,
            ImageFormat::Bmp,
        ] {
            let picture = decode(&encoded(&pixel, form), &DecodeOptions::default()).unwrap();
            assert_eq!(picture.size(), (1, 1), "{form:?}");
            assert!(picture.pixels().iter().all(|value| value.abs_diff(90) <= 1), "{form:?}");
        }
    }

    #[test]
    fn large_pictures_are_reduced_but_not_below_the_requested_side() {
        let size = (400, 640);
        let large = ::image::DynamicImage::from(::image::RgbImage::from_fn(640, 400, |x, y| {
            Rgb([(x / 4) as u8, (y / 2) as u8, 100])
        }));
        let jpeg = encoded(&large, ImageFormat::Jpeg);
        for (at_least, expected) in [
            (None, size),
            (Some(400), size),
            (Some(201), size),
            (Some(200), (200, 320)),
            (Some(51), (100, 160)),
            (Some(1), (50, 80)),
        ] {
            let options = DecodeOptions { at_least, ..DecodeOptions::default() };
            assert_eq!(decode(&jpeg, &options).unwrap().size(), expected, "{at_least:?}");
        }
        // Within the limit at a quarter of each side.
        let png = encoded(&large, ImageFormat::Png);
        let bounded = DecodeOptions { most_pixels: 200_000, ..DecodeOptions::default() };
        let error = decode(&png, &bounded).unwrap_err();
        assert!(matches!(error, Error::TooLargeForm { .. }), "{error}");
        let options = DecodeOptions { at_least: Some(100), ..bounded };
        let picture = decode(&png, &options).unwrap();
        assert_eq!(picture.size(), (100, 160));
        let expected = [40, 100, 100];
        let middle = &picture.pixels()[3 * (50 * 160 + 40)..][..3];
        assert!(
            middle.iter().zip(expected).all(|(&got, want)| got.abs_diff(want) <= 1),
            "{middle:?}"
        );
    }

    #[test]
    fn transparent_grey_shows_the_background_colour() {
        let clear = ::image::GrayAlphaImage::from_pixel(2, 1, ::image::LumaA([9, 0]));
        let png = encoded(&clear.into(), ImageFormat::Png);
        let background = Background([200, 30, 90]);
        let options = |channels| DecodeOptions { channels, background, ..DecodeOptions::default() };
        assert_eq!(decode(&png, &options(Some(3))).unwrap().pixels(), [200, 30, 90, 200, 30, 90]);
        let grey = decode(&png, &options(None)).unwrap();
        assert_eq!((grey.channels(), grey.pixels()), (1, &[88, 88][..]));
    }
}
