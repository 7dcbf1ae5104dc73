//! Finding the end of a picture file, for several files in one stream.

use ::image::ImageFormat;

use super::{form, jpeg};

/// Length of the first of several concatenated picture files; all bytes for a single file or anything else.
#[must_use]
pub fn length_of_first(bytes: &[u8]) -> usize {
    let end = match form(bytes) {
        Ok(ImageFormat::Png) => png(bytes),
        Ok(ImageFormat::Jpeg) => jpeg::end(bytes),
        Ok(ImageFormat::Gif) => gif(bytes),
        Ok(ImageFormat::WebP) => number(bytes, 4).map(|length| 8 + length.next_multiple_of(2)),
        Ok(ImageFormat::Bmp) => number(bytes, 2),
        _ => None,
    };
    let is_another = |end: &usize| bytes.get(*end..).is_some_and(|rest| form(rest).is_ok());
    end.filter(|&end| end > 0).filter(is_another).unwrap_or(bytes.len())
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*four) as usize)
}

/// Chunks: a length, a name, the data, a checksum.
fn png(bytes: &[u8]) -> Option<usize> {
    let mut at = 8;
    loop {
        let (length, rest) = bytes.get(at..)?.split_first_chunk()?;
        at += 12 + u32::from_be_bytes(*length) as usize;
        if rest.starts_with(b"IEND") {
            return Some(at);
        }
    }
}

/// Blocks of known length, each followed by sub-blocks up to an empty one.
fn gif(bytes: &[u8]) -> Option<usize> {
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + table(*bytes.get(10)?);
    loop {
        at += match bytes.get(at)? {
            0x21 => 2,
            0x2C => 11 + table(*bytes.get(at + 9)?),
            0x3B => return Some(at + 1),
            _ => return None,
        };
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_picture_of_every_format_ends_where_the_next_begins() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let names = ["views/rgba.png", "jpeg/420.jpg", "views/animated.gif", "views/colour.bmp"];
        let pictures = names.map(|name| fs::read(fixtures.join(name)).unwrap());
        let mut webp = std::io::Cursor::new(Vec::new());
        let pixel = ::image::RgbImage::from_pixel(3, 2, ::image::Rgb([9; 3]));
        pixel.write_to(&mut webp, ImageFormat::WebP).unwrap();
        for first in pictures.iter().chain([&webp.into_inner()]) {
            assert_eq!(length_of_first(first), first.len());
            for second in &pictures {
                assert_eq!(length_of_first(&[&first[..], second].concat()), first.len());
            }
            // Junk belongs to the picture before it.
            assert_eq!(length_of_first(&[&first[..], b"junk"].concat()), first.len() + 4);
            for end in 0..first.len().min(400) {
                assert_eq!(length_of_first(&first[..end]), end);
            }
        }
    }
}
