//! A file's bytes as a picture, which stands upright. What the file says of itself is checked before it costs memory, and a
//! large picture is shrunk while it is decoded.

use image::ImageFormat;

use super::decoded::Decoded;
use super::error::Error;
use super::guarded::guarded;
use super::{jpeg, png};

/// Decodes a PNG or JPEG picture; one whose longest side is `least` or more is shrunk to no less than that.
///
/// # Errors
/// If it is neither, not whole, or too large.
pub(super) fn decode(bytes: &[u8], least: u32) -> Result<Decoded, Error> {
    // By content: a name can lie.
    let decode = match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => png::decode,
        Ok(ImageFormat::Jpeg) => jpeg::decode,
        _ => return Err(Error::NoPicture),
    };
    guarded(|| decode(bytes, least)).unwrap_or(Err(Error::DecoderFails))
}

#[cfg(test)]
mod tests {
    use super::super::planes::{Kind, Plane, Shrinking};
    use super::*;
    use image::metadata::Orientation;
    use std::fs;
    use std::path::Path;

    /// What Pillow makes of a JPEG file lies beside it as PNG, in the folder that `tests/reference/picture_fixtures.py` writes.
    #[test]
    fn jpeg_of_every_form_is_what_libjpeg_makes_of_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/jpeg");
        // As large as it is, and at half of that.
        for (least, shrunk, bound) in [(256, (93, 61), 0.03), (40, (47, 31), 0.04)] {
            for name in ["444", "422", "420", "progressive", "restarts", "grey", "cmyk"] {
                let planes = |end: &str| {
                    let bytes = fs::read(folder.join(format!("{name}.{end}"))).expect("a fixture");
                    let decoded = decode(&bytes, least).expect("a picture");
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
            decode(&[&whole[..jfif], &marker, rest].concat(), 256).expect("a picture").planes(3)
        };
        let as_before = decode(&whole, 256).expect("a picture").planes(3);
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
        let picture = image::GrayImage::from_raw(width, height, bytes.clone()).expect("3 by 2");
        for code in 1..=8 {
            let orientation = Orientation::from_exif(code);
            let mut pixels = Shrinking::new((width, height), Kind { samples: 1, most: 255 }, 256);
            for (y, row) in (0..).zip(bytes.chunks(3)) {
                pixels.add_row(y, 0..width, row.iter().copied().map(u16::from));
            }
            let decoded = Decoded { size: (width, height), pixels, orientation };
            let mut expected = image::DynamicImage::from(picture.clone());
            expected.apply_orientation(orientation.expect("one of eight"));
            let plane = decoded.planes(1).remove(0);
            assert_eq!(plane.dimensions(), decoded.upright_size());
            let turned: Vec<u8> = plane.iter().map(|value| (value * 255.0).round() as u8).collect();
            assert_eq!(turned, expected.into_bytes(), "{code}");
        }
    }
}
