//! PNG, row after row.

use std::io::Cursor;

use image::metadata::Orientation;
use png::{BitDepth, Decoder, Limits, Transformations};

use super::decoded::{Decoded, check_size};
use super::error::Error;
use super::planes::{Kind, Shrinking};

/// What may be kept of the file beside its pixels, such as EXIF data.
const MOST_BYTES: usize = 8 << 20;

/// The pixels that come together: the first of their columns and rows, and the steps to the next ones.
struct Pass {
    first: (u32, u32),
    step: (u32, u32),
}

const fn pass(first: (u32, u32), step: (u32, u32)) -> Pass {
    Pass { first, step }
}

/// A picture that is not interlaced.
const ALL: [Pass; 1] = [pass((0, 0), (1, 1))];
/// PNG specification, third edition, 8.
const ADAM7: [Pass; 7] = [
    pass((0, 0), (8, 8)),
    pass((4, 0), (8, 8)),
    pass((0, 4), (4, 8)),
    pass((2, 0), (4, 4)),
    pass((0, 2), (2, 4)),
    pass((1, 0), (2, 2)),
    pass((0, 1), (1, 2)),
];

/// Decodes a PNG picture, which lies as it does in the file.
///
/// # Errors
/// If it is too large, or not whole.
pub(super) fn decode(bytes: &[u8], least: u32) -> Result<Decoded, Error> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MOST_BYTES });
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let size = decoder.read_header_info()?.size();
    check_size(size)?;
    let mut reader = decoder.read_info()?;
    let (colour, depth) = reader.output_color_type();
    let is_wide = depth == BitDepth::Sixteen;
    let kind = Kind { samples: colour.samples(), most: if is_wide { u16::MAX } else { 255 } };
    let mut pixels = Shrinking::new(size, kind, least);
    let passes: &[Pass] = if reader.info().interlaced { &ADAM7 } else { &ALL };
    for Pass { first, step } in passes {
        let columns = || (first.0..size.0).step_by(step.0 as usize);
        let rows = (first.1..size.1).step_by(step.1 as usize);
        // A pass without columns has no rows.
        for y in rows.filter(|_| first.0 < size.0) {
            let Some(row) = reader.next_row()? else { return Err(Error::CutOff) };
            if is_wide {
                let samples = row.data().chunks_exact(2);
                pixels.add_row(
                    y,
                    columns(),
                    samples.map(|two| u16::from_be_bytes([two[0], two[1]])),
                );
            } else {
                pixels.add_row(y, columns(), row.data().iter().copied().map(u16::from));
            }
        }
    }
    // What is left belongs to no pixel, and is to be whole.
    reader.next_row()?;
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif.and_then(Orientation::from_exif_chunk);
    Ok(Decoded { size, pixels, orientation })
}
