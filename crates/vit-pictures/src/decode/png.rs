//! PNG, row by row.

use std::io::Cursor;

use ::image::metadata::Orientation;
use ::png::{BitDepth, Decoder, Limits, Transformations};

use super::raw::{Raw, Whole};
use crate::shrunk::{Kind, Rows, Shrinking, Shrunk};
use crate::upright::{check_form, check_size};
use crate::{DecodeOptions, Error};

/// Size limit of data other than pixels, such as EXIF.
const MOST_BYTES: usize = 8 << 20;

/// An interlacing pass: its first column and row, and the steps between its columns and rows.
struct Pass {
    first: (u32, u32),
    step: (u32, u32),
}

const fn pass(first: (u32, u32), step: (u32, u32)) -> Pass {
    Pass { first, step }
}

/// Not interlaced.
const ALL: [Pass; 1] = [pass((0, 0), (1, 1))];
/// PNG specification, third edition, section 8.
const ADAM7: [Pass; 7] = [
    pass((0, 0), (8, 8)),
    pass((4, 0), (8, 8)),
    pass((0, 4), (4, 8)),
    pass((2, 0), (4, 4)),
    pass((0, 2), (2, 4)),
    pass((1, 0), (2, 2)),
    pass((0, 1), (1, 2)),
];

/// Decodes a PNG picture into means of squares of pixels, with the longest side at least `least`.
///
/// # Errors
/// If it is too large or incomplete.
pub(super) fn shrink(bytes: &[u8], least: u32) -> Result<Shrunk, Error> {
    let Read { pixels, size, orientation } =
        decode(bytes, |size, kind| Ok(Shrinking::new(size, kind, least)))?;
    Ok(Shrunk { size, pixels, orientation })
}

/// Decodes a PNG picture, reduced only if it exceeds the limits otherwise.
///
/// # Errors
/// If it is too large or incomplete.
pub(super) fn decode_raw(bytes: &[u8], options: &DecodeOptions) -> Result<Raw, Error> {
    let most = options.most_pixels;
    let Read { pixels, size, orientation } = decode(bytes, |size, kind| {
        let (width, height) = size;
        if u64::from(width) * u64::from(height) <= most {
            return Ok(Pixels::Whole(Whole::new(size, kind)));
        }
        let factor = options.at_least.map_or(1, |side| (width.min(height) / side.max(1)).max(1));
        check_form("a PNG picture", (width.div_ceil(factor), height.div_ceil(factor)), most / 8)?;
        Ok(Pixels::Shrinking(Shrinking::by(factor, size, kind)))
    })?;
    Ok(match pixels {
        Pixels::Whole(Whole { pixels, kind, .. }) => {
            Raw { pixels, samples: kind.samples, size, orientation }
        }
        Pixels::Shrinking(pixels) => {
            let (pixels, size) = pixels.over(options.background.0);
            Raw { pixels, samples: 3, size, orientation }
        }
    })
}

enum Pixels {
    Whole(Whole),
    Shrinking(Shrinking),
}

impl Rows for Pixels {
    fn add_row(
        &mut self,
        y: u32,
        columns: impl Iterator<Item = u32>,
        samples: impl Iterator<Item = u16>,
    ) {
        match self {
            Self::Whole(pixels) => pixels.add_row(y, columns, samples),
            Self::Shrinking(pixels) => pixels.add_row(y, columns, samples),
        }
    }
}

/// A picture in the orientation of its file.
struct Read<R> {
    pixels: R,
    /// Width and height in the file.
    size: (u32, u32),
    orientation: Option<Orientation>,
}

/// Decodes a PNG picture row by row, in the orientation of its file.
fn decode<R: Rows>(
    bytes: &[u8],
    rows_of: impl FnOnce((u32, u32), Kind) -> Result<R, Error>,
) -> Result<Read<R>, Error> {
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
    let mut pixels = rows_of(size, kind)?;
    let passes: &[Pass] = if reader.info().interlaced { &ADAM7 } else { &ALL };
    for Pass { first, step } in passes {
        let columns = || (first.0..size.0).step_by(step.0 as usize);
        let rows = (first.1..size.1).step_by(step.1 as usize);
        // A pass without columns has no rows in the file.
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
    // The rest has no pixels, but must be complete.
    reader.next_row()?;
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif.and_then(Orientation::from_exif_chunk);
    Ok(Read { pixels, size, orientation })
}
