//! JPEG, decoded at a reduced scale: the decoder makes 8, 4, 2 or 1 pixels of eight in a row.
//!
//! `jpeg-decoder` decodes every form. Whole pictures of the common forms ([`is_common`]) are decoded by
//! `libjpeg-turbo-rs`, which is faster and bit-identical to libjpeg-turbo.

use std::thread;

use ::image::metadata::Orientation;
use jpeg_decoder::{CodingProcess, ColorTransform, Decoder, ImageInfo, PixelFormat};
use memchr::memchr;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::guarded::guarded;
use super::raw::Raw;
use crate::shrunk::{Kind, Rows, Shrinking, Shrunk};
use crate::upright::{check_form, check_size};
use crate::{DecodeOptions, Error};

/// Memory limit of a progressive picture: all its coefficients are kept until the last scan.
const MOST_BYTES: u64 = 32 << 20;
/// Size of one coefficient.
const BYTES: u64 = 2;

/// A scan of ten bytes can take as long as the whole picture. Encoders write about ten scans; other libraries allow
/// this many.
const MOST_SCANS: usize = 100;
/// Limit of colour profiles, which the decoder copies; real ones have a few megabytes at most.
const MOST_PROFILES: usize = 8 << 20;

/// Markers (ITU-T T.81, table B.1).
const START_OF_SCAN: u8 = 0xDA;
const START_OF_BASELINE_FRAME: u8 = 0xC0;
const START_OF_PROGRESSIVE_FRAME: u8 = 0xC2;
const END: u8 = 0xD9;
const JFIF: u8 = 0xE0;
const PROFILE: u8 = 0xE2;
const ADOBE: u8 = 0xEE;

/// Decodes a JPEG picture into means of squares of pixels, with the longest side at least `least`.
///
/// # Errors
/// If it is too large or incomplete.
pub(super) fn shrink(bytes: &[u8], least: u32) -> Result<Shrunk, Error> {
    let opened = Opened::new(bytes)?;
    let (size, format) = (opened.size, opened.info.pixel_format);
    // The smallest scale whose longest side is at least `least`.
    let decoded = opened.decode((least, least))?;
    let pixels = shrunk(&decoded.pixels, decoded.size, format, least);
    Ok(Shrunk { size, pixels, orientation: decoded.orientation })
}

/// Decodes a JPEG picture at the smallest scale that keeps the requested shorter side.
///
/// # Errors
/// If it is too large or incomplete.
pub(super) fn decode_raw(bytes: &[u8], options: &DecodeOptions) -> Result<Raw, Error> {
    let opened = Opened::new(bytes)?;
    let (width, height) = opened.size;
    let scaled = |eighths: u32| {
        [width, height].map(|side| (u64::from(side) * u64::from(eighths)).div_ceil(8) as u32)
    };
    let is_enough = |&eighths: &u32| {
        options.at_least.is_some_and(|side| scaled(eighths).into_iter().min() >= Some(side))
    };
    let eighths = [1, 2, 4].into_iter().find(is_enough).unwrap_or(8);
    let [across, down] = scaled(eighths);
    check_form("a JPEG picture", (across, down), options.most_pixels)?;
    if eighths == 8 && is_common(&opened.segments, opened.info) {
        return decode_common(bytes, opened);
    }
    let format = opened.info.pixel_format;
    let mut raw = opened.decode((across, down))?;
    if format == PixelFormat::CMYK32 {
        let pixels = &mut raw.pixels;
        // Pillow's `cmyk2rgb`: each channel is the light that its ink and black let through.
        for at in 0..pixels.len() / 4 {
            let black = u32::from(255 - pixels[4 * at + 3]);
            for channel in 0..3 {
                let through = u32::from(255 - pixels[4 * at + channel]);
                pixels[3 * at + channel] = ((through * black + 127) / 255) as u8;
            }
        }
        pixels.truncate(pixels.len() / 4 * 3);
        raw.samples = 3;
    }
    Ok(raw)
}

/// A picture with its headers read and checked.
struct Opened<'a> {
    decoder: Decoder<&'a [u8]>,
    info: ImageInfo,
    size: (u32, u32),
    segments: Summary<'a>,
}

impl<'a> Opened<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut decoder = Decoder::new(bytes);
        decoder.read_info()?;
        let info = decoder.info().ok_or(Error::CutOff)?;
        let size = (info.width.into(), info.height.into());
        check_size(size)?;
        check_length(bytes, size)?;
        let segments = Summary::of(bytes);
        segments.check(info)?;
        match info.coding_process {
            CodingProcess::DctSequential => {}
            CodingProcess::DctProgressive => {
                check_form(
                    "a progressive JPEG",
                    size,
                    most_progressive(segments.progressive, info),
                )?;
            }
            CodingProcess::Lossless => {
                return Err(Error::Undecodable("lossless JPEG is not supported".into()));
            }
        }
        Ok(Self { decoder, info, size, segments })
    }

    /// Decodes at the smallest scale with one side at least this long; CMYK has 4 samples a pixel.
    fn decode(mut self, least: (u32, u32)) -> Result<Raw, Error> {
        if self.info.pixel_format == PixelFormat::RGB24 && self.segments.is_adobe_rgb() {
            self.decoder.set_color_transform(ColorTransform::RGB);
        }
        let side = |least| u16::try_from(least).unwrap_or(u16::MAX);
        let (width, height) = self.decoder.scale(side(least.0), side(least.1))?;
        let pixels = on_one_thread(|| self.decoder.decode())??;
        let orientation = self.decoder.exif_data().and_then(Orientation::from_exif_chunk);
        let samples = self.info.pixel_format.pixel_bytes();
        Ok(Raw { pixels, samples, size: (width.into(), height.into()), orientation })
    }
}

thread_local! {
    /// A pool of one thread for each thread that decodes.
    static THREAD: Result<ThreadPool, ThreadPoolBuildError> =
        ThreadPoolBuilder::new().num_threads(1).build();
}

/// Runs on one thread. The decoder would use one for each core, and its memory would depend on the machine.
fn on_one_thread<T: Send>(decode: impl FnOnce() -> T + Send) -> Result<T, Error> {
    THREAD.with(|pool| {
        let pool = pool.as_ref().map_err(|error| Error::Undecodable(error.to_string().into()))?;
        // Waiting in the caller's own pool would start other work on this thread, and so decode any number of pictures
        // at once.
        let decoded = thread::scope(|scope| {
            // The panic is caught on that thread.
            scope.spawn(|| pool.install(|| guarded(decode))).join()
        });
        decoded.ok().flatten().ok_or(Error::DecoderFails)
    })
}

/// Whether `libjpeg-turbo-rs` decodes pictures of this form
/// (docs/decisions/0020-jpeg-decoding.md): baseline, one scan, grey or YCbCr with its colours sampled at
/// 1x1, 2x1 or 2x2.
fn is_common(segments: &Summary<'_>, info: ImageInfo) -> bool {
    let Some(components) = segments.baseline.and_then(|frame| components(frame, info)) else {
        return false;
    };
    let is_sampled = match components {
        [[_, 0x11, _]] => true,
        [[1, luma, _], [2, 0x11, _], [3, 0x11, _]] => [0x11, 0x21, 0x22].contains(luma),
        _ => false,
    };
    segments.scans == 1 && is_sampled && !segments.is_adobe_rgb()
}

fn decode_common(bytes: &[u8], opened: Opened<'_>) -> Result<Raw, Error> {
    let (samples, format) = match opened.info.pixel_format {
        PixelFormat::RGB24 => (3, libjpeg_turbo_rs::PixelFormat::Rgb),
        _ => (1, libjpeg_turbo_rs::PixelFormat::Grayscale),
    };
    let size = opened.size;
    drop(opened);
    let mut decoder = libjpeg_turbo_rs::Decoder::new(bytes)?;
    decoder.set_output_format(format);
    let mut pixels = vec![0; size.0 as usize * size.1 as usize * samples];
    decoder.decode_image_into(&mut pixels)?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk);
    Ok(Raw { pixels, samples, size, orientation })
}

fn shrunk(bytes: &[u8], size: (u32, u32), format: PixelFormat, least: u32) -> Shrinking {
    let kind = match format {
        PixelFormat::L8 | PixelFormat::L16 => Kind { samples: 1, most: 255 },
        PixelFormat::RGB24 => Kind { samples: 3, most: 255 },
        PixelFormat::CMYK32 => Kind { samples: 3, most: 255 * 255 },
    };
    let mut pixels = Shrinking::new(size, kind, least);
    let rows = bytes.chunks_exact(size.0 as usize * format.pixel_bytes());
    for (y, row) in (0..).zip(rows) {
        if format == PixelFormat::CMYK32 {
            let light = row.chunks_exact(4).flat_map(|ink| {
                // Each channel is the light that its ink and black let through.
                let [through @ .., black] = [0, 1, 2, 3].map(|at| u16::from(255 - ink[at]));
                through.map(|through: u16| through * black)
            });
            pixels.add_row(y, 0..size.0, light);
        } else {
            pixels.add_row(y, 0..size.0, row.iter().copied().map(u16::from));
        }
    }
    pixels
}

/// Where the file ends, by its markers.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let behind = Segments(bytes).find(|(marker, _)| *marker == END)?.1;
    Some(bytes.len() - behind.len())
}

/// Rejects a file with too few bytes for its size.
fn check_length(bytes: &[u8], (width, height): (u32, u32)) -> Result<(), Error> {
    // Each block of 8x8 pixels takes at least one bit.
    let blocks = u64::from(width.div_ceil(8)) * u64::from(height.div_ceil(8));
    if blocks > 8 * bytes.len() as u64 {
        return Err(Error::TooShort { length: bytes.len() as u64, width, height });
    }
    Ok(())
}

/// A summary of a file's segments, from one pass.
#[derive(Default)]
struct Summary<'a> {
    scans: usize,
    /// Their bytes.
    profiles: usize,
    has_end: bool,
    has_jfif: bool,
    /// From Adobe's marker.
    transform: Option<u8>,
    /// The first one.
    baseline: Option<&'a [u8]>,
    progressive: Option<&'a [u8]>,
}

impl<'a> Summary<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut found = Self::default();
        for (marker, segment) in Segments(bytes) {
            match marker {
                START_OF_SCAN => found.scans += 1,
                PROFILE => found.profiles += length(segment),
                END => found.has_end = true,
                JFIF => found.has_jfif |= segment.get(2..6) == Some(b"JFIF"),
                // After the length and the name come a version and two flags, of two bytes each, then the transform.
                ADOBE if segment.get(2..7) == Some(b"Adobe") => {
                    found.transform = found.transform.or(segment.get(13).copied());
                }
                START_OF_BASELINE_FRAME => found.baseline = found.baseline.or(Some(segment)),
                START_OF_PROGRESSIVE_FRAME => {
                    found.progressive = found.progressive.or(Some(segment));
                }
                _ => {}
            }
        }
        found
    }

    /// Rejects a file without an end, with too many scans, or with too large profiles.
    fn check(&self, info: ImageInfo) -> Result<(), Error> {
        let Self { scans, profiles, .. } = self;
        if !self.has_end {
            return Err(Error::CutOff);
        }
        let most = match info.coding_process {
            CodingProcess::DctProgressive => MOST_SCANS,
            _ => info.pixel_format.pixel_bytes(),
        };
        if *scans > most {
            let said = format!("expected at most {most} scans, got {scans}");
            return Err(Error::Undecodable(said.into()));
        }
        if *profiles > MOST_PROFILES {
            let said =
                format!("expected at most {MOST_PROFILES} bytes of profiles, got {profiles}");
            return Err(Error::Undecodable(said.into()));
        }
        Ok(())
    }

    /// Whether an Adobe marker declares RGB. The decoder prefers the components' names; JFIF has no RGB pictures.
    fn is_adobe_rgb(&self) -> bool {
        !self.has_jfif && self.transform == Some(0)
    }
}

/// Most pixels of a progressive picture. The decoder keeps its coefficients, and keeps one component's twice if some of
/// its scans are missing.
fn most_progressive(frame: Option<&[u8]>, info: ImageInfo) -> u64 {
    // If no frame is found, assumes the worst case.
    let most = (info.pixel_format.pixel_bytes() as u64, 1);
    let (samples, pixels) = frame.and_then(|frame| sampling(frame, info)).unwrap_or(most);
    MOST_BYTES * pixels / (BYTES * (samples + pixels))
}

/// Number of samples and of pixels, as a ratio, if this is the picture's frame: a component may be subsampled in both
/// directions.
fn sampling(frame: &[u8], info: ImageInfo) -> Option<(u64, u64)> {
    let factors = components(frame, info)?.iter();
    let factors: Vec<[u64; 2]> =
        factors.map(|of| [of[1] >> 4, of[1] & 15].map(u64::from)).collect();
    let most = |at: usize| factors.iter().map(|factor| factor[at]).max();
    let pixels = most(0)? * most(1)?;
    let samples = factors.iter().map(|[across, down]| across * down).sum();
    (pixels > 0).then_some((samples, pixels))
}

/// Name, sampling factors and table of each component, if this is the picture's frame.
fn components(frame: &[u8], info: ImageInfo) -> Option<&[[u8; 3]]> {
    // Two bytes of length, then precision, lines, samples in a line, and the number of components.
    let (&[_, _, _, high, low, left, right, count], rest) = frame.split_first_chunk()?;
    // A crafted file may have another frame after this one.
    let is_the_same = [high, low] == info.height.to_be_bytes()
        && [left, right] == info.width.to_be_bytes()
        && usize::from(count) == info.pixel_format.pixel_bytes();
    rest.as_chunks().0.get(..count.into()).filter(|_| is_the_same)
}

/// The segments of a file up to its end: each marker with all that follows it. Skips entropy-coded data, where FF
/// precedes only zeros and restart markers.
struct Segments<'a>(&'a [u8]);

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = memchr(0xFF, self.0)?;
            let (&marker, behind) = self.0[at + 1..].split_first()?;
            match marker {
                // Padding, or markers without a segment.
                0x00 | 0x01 | 0xD0..=0xD8 => self.0 = behind,
                0xFF => self.0 = &self.0[at + 1..],
                END => {
                    self.0 = &[];
                    return Some((marker, behind));
                }
                _ => {
                    self.0 = behind.get(length(behind)..).unwrap_or_default();
                    return Some((marker, behind));
                }
            }
        }
    }
}

/// Length of a segment, from its first bytes, including them.
fn length(segment: &[u8]) -> usize {
    segment.first_chunk().map_or(0, |two| usize::from(u16::from_be_bytes(*two)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_follows_all_segments() {
        let ends = |bytes: &[u8]| Segments(bytes).any(|(marker, _)| marker == END);
        let thumbnail = [0xFF, 0xE1, 0, 6, 0xFF, 0xDA, 0xFF, 0xD9];
        let scan = [0xFF, 0xDA, 0, 2, 1, 0xFF, 0, 0xD9];
        let cut_off = [&[0xFF, 0xD8], &thumbnail[..], &scan].concat();
        assert!(!ends(&cut_off));
        assert!(ends(&[&cut_off[..], &[0xFF, 0xD9, 7]].concat()));
        assert!(!ends(&cut_off[..4]));
        assert!(!ends(&[]));
    }

    #[test]
    fn bytes_after_the_end_are_ignored() {
        let twice = [0xFF, 0xDA, 0, 2, 1, 0xFF, 0xD9, 0xFF, 0xDA, 0, 2, 0xFF, 0xD9];
        let markers: Vec<u8> = Segments(&twice).map(|(marker, _)| marker).collect();
        assert_eq!(markers, [START_OF_SCAN, END]);
    }

    #[test]
    fn subsampling_raises_the_pixel_limit_of_progressive_pictures() {
        let info = ImageInfo {
            width: 16,
            height: 8,
            pixel_format: PixelFormat::RGB24,
            coding_process: CodingProcess::DctProgressive,
        };
        let frame = |factors: [u8; 3]| {
            let mut frame = vec![0xFF, 0xD8, 0xFF, 0xC2, 0, 17, 8, 0, 8, 0, 16, 3];
            factors.iter().for_each(|&factor| frame.extend([1, factor, 0]));
            frame
        };
        let all = MOST_BYTES / 8;
        let most_progressive =
            |file: &[u8], info| most_progressive(Summary::of(file).progressive, info);
        for (factors, most) in [
            ([0x11; 3], all),
            ([0x22, 0x11, 0x11], MOST_BYTES / 5),
            ([0x21, 0x11, 0x11], MOST_BYTES / 6),
            ([0x11, 0x22, 0x22], 4 * MOST_BYTES / 26),
            ([0; 3], all),
        ] {
            assert_eq!(most_progressive(&frame(factors), info), most, "{factors:?}");
        }
        // A header with another size, a truncated one, and none.
        let other = ImageInfo { width: 17, ..info };
        assert_eq!(most_progressive(&frame([0x22, 0x11, 0x11]), other), all);
        assert_eq!(most_progressive(&frame([0x22, 0x11, 0x11])[..18], info), all);
        assert_eq!(most_progressive(&[], info), all);
    }
}
