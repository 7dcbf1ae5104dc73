//! Antialiased resizing, bit-identical to Pillow's.
//!
//! `Image.resize` (Pillow, `src/libImaging/Resample.c`) filters horizontally, rounds to bytes, then filters vertically.
//! With `scale = max(in / out, 1)` the output at `x` is
//!
//! ```text
//! sum_i k((i + 0.5 - centre) / scale) in[i] / sum_i k((i + 0.5 - centre) / scale),   centre = (x + 0.5) in / out
//! ```
//!
//! over the inputs within `scale * support` of the centre, with weights rounded to 22 bits.

use crate::Picture;
use crate::simd::dispatch;

/// The resampling filter, widened by the reduction factor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// `k(x) = 1 - |x|` for `|x| < 1`.
    #[default]
    Bilinear,
    /// Keys' cubic with `a = -0.5`, for `|x| < 2`.
    Bicubic,
}

impl Interpolation {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// A range of pixels along one axis: the first, and the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Span {
    pub(crate) const fn all(count: usize) -> Self {
        Self { first: 0, count }
    }
}

/// How one axis is resized: the range `from` becomes `to` pixels, and only `kept` of them are computed.
#[derive(Clone, Copy)]
pub(crate) struct Axis {
    pub(crate) from: Span,
    pub(crate) to: usize,
    pub(crate) kept: Span,
}

impl Axis {
    fn is_copy(&self) -> bool {
        self.from.count == self.to
    }
}

/// Resizes a picture to (height, width).
///
/// Pillow equivalent: `picture.resize((width, height), Image.Resampling.BICUBIC)`.
///
/// # Panics
/// If a side is 0.
#[must_use]
pub fn resize(
    picture: &Picture,
    (height, width): (usize, usize),
    interpolation: Interpolation,
) -> Picture {
    let (from_height, from_width) = picture.size();
    let axis = |from, to| Axis { from: Span::all(from), to, kept: Span::all(to) };
    resize_part(picture, axis(from_height, height), axis(from_width, width), interpolation)
}

/// Resizes part of a picture and keeps part of the result, as if cropped before and after.
pub(crate) fn resize_part(
    picture: &Picture,
    down: Axis,
    across: Axis,
    interpolation: Interpolation,
) -> Picture {
    assert!(down.to > 0 && across.to > 0, "expected sides of at least 1 pixel");
    let channels = picture.channels();
    let filters = Filters::new(down, interpolation);
    // The rows that both filters read.
    let rows = filters.reach();
    let width = picture.size().1;
    let part = picture.pixels().chunks_exact(width * channels).skip(down.from.first + rows.first);
    let begin = across.from.first * channels;
    let part: Vec<&[u8]> =
        part.take(rows.count).map(|row| &row[begin..][..across.from.count * channels]).collect();
    let kept = across.kept.count * channels;
    let mut wide = vec![0; rows.count * kept];
    if across.is_copy() {
        let begin = across.kept.first * channels;
        for (out, row) in wide.chunks_exact_mut(kept).zip(&part) {
            out.copy_from_slice(&row[begin..][..kept]);
        }
    } else {
        let across = Filters::new(across, interpolation);
        match channels {
            1 => filter_across::<1>(&part, &across, &mut wide),
            _ => filter_across::<3>(&part, &across, &mut wide),
        }
    }
    let pixels = if down.is_copy() {
        wide
    } else {
        let mut pixels = vec![0; down.kept.count * kept];
        filter_down(&wide, rows.first, &filters, &mut pixels);
        pixels
    };
    Picture::new(pixels, channels, (down.kept.count, across.kept.count)).expect("sides above 0")
}

/// Fractional bits of a weight: Pillow's `PRECISION_BITS`.
const BITS: u32 = 32 - 8 - 2;

/// The weights of each output.
struct Filters {
    weights: Vec<i32>,
    /// For each output, the range of its inputs.
    inputs: Vec<Span>,
    /// Weights stored for each output, padding included.
    most: usize,
}

impl Filters {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.
    fn new(Axis { from, to, kept }: Axis, interpolation: Interpolation) -> Self {
        if from.count == to {
            let inputs =
                (kept.first..kept.first + kept.count).map(|first| Span { first, count: 1 });
            return Self {
                weights: vec![1 << BITS; kept.count],
                inputs: inputs.collect(),
                most: 1,
            };
        }
        let ratio = from.count as f64 / to as f64;
        let scale = ratio.max(1.0);
        let support = interpolation.support() * scale;
        let most = support.ceil() as usize * 2 + 1;
        let mut weights = vec![0; most * kept.count];
        let mut inputs = Vec::with_capacity(kept.count);
        let mut exact = Vec::with_capacity(most);
        for (at, weights) in (kept.first..).zip(weights.chunks_exact_mut(most)) {
            let centre = (at as f64 + 0.5) * ratio;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from.count);
            exact.clear();
            exact.extend(
                (first..end).map(|input| {
                    interpolation.weight((input as f64 - centre + 0.5) * scale.recip())
                }),
            );
            let sum: f64 = exact.iter().sum();
            for (weight, exact) in weights.iter_mut().zip(&exact) {
                let scaled = exact * if sum == 0.0 { 1.0 } else { sum.recip() };
                *weight = (scaled * f64::from(1 << BITS)).round() as i32;
            }
            inputs.push(Span { first, count: end - first });
        }
        Self { weights, inputs, most }
    }

    /// The range of inputs that any output reads.
    fn reach(&self) -> Span {
        let first = self.inputs.iter().map(|span| span.first).min().unwrap_or_default();
        let end = self.inputs.iter().map(|span| span.first + span.count).max().unwrap_or_default();
        Span { first, count: end - first }
    }

    fn outputs(&self) -> impl Iterator<Item = (Span, &[i32])> {
        let weights = self.weights.chunks_exact(self.most);
        self.inputs.iter().zip(weights).map(|(&span, weights)| (span, &weights[..span.count]))
    }
}

/// Rows filtered together.
const LANES: usize = 16;

/// Filters each row. Rows are transposed [`LANES`] at a time, because neighbours in a row have different inputs.
fn filter_across<const CHANNELS: usize>(rows: &[&[u8]], filters: &Filters, out: &mut [u8]) {
    let reach = filters.reach();
    let width = filters.inputs.len() * CHANNELS;
    let mut block = vec![[0; LANES]; reach.count * CHANNELS];
    for (rows, out) in rows.chunks(LANES).zip(out.chunks_mut(LANES * width)) {
        dispatch(
            #[inline(always)]
            || {
                for (lane, row) in rows.iter().enumerate() {
                    let row = &row[reach.first * CHANNELS..];
                    for (column, &value) in block.iter_mut().zip(row) {
                        column[lane] = value;
                    }
                }
                for (x, (span, weights)) in filters.outputs().enumerate() {
                    let inputs = &block[(span.first - reach.first) * CHANNELS..];
                    let mut sums = [[1 << (BITS - 1); LANES]; CHANNELS];
                    for (inputs, &weight) in inputs.as_chunks::<CHANNELS>().0.iter().zip(weights) {
                        for (sums, values) in sums.iter_mut().zip(inputs) {
                            for (sum, &value) in sums.iter_mut().zip(values) {
                                *sum += i32::from(value) * weight;
                            }
                        }
                    }
                    for (channel, sums) in sums.iter().enumerate() {
                        let bytes = sums.map(byte);
                        let out = out[x * CHANNELS + channel..].iter_mut().step_by(width);
                        for (out, byte) in out.zip(bytes) {
                            *out = byte;
                        }
                    }
                }
            },
        );
    }
}

/// Filters columns; row `first` is the first of `rows`.
fn filter_down(rows: &[u8], first: usize, filters: &Filters, out: &mut [u8]) {
    let width = out.len() / filters.inputs.len();
    let mut sums = vec![0; width];
    for (out, (span, weights)) in out.chunks_exact_mut(width).zip(filters.outputs()) {
        dispatch(
            #[inline(always)]
            || {
                sums.fill(1 << (BITS - 1));
                let rows = rows[(span.first - first) * width..].chunks_exact(width);
                for (row, &weight) in rows.zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(row) {
                        *sum += i32::from(value) * weight;
                    }
                }
                for (out, &sum) in out.iter_mut().zip(&sums) {
                    *out = byte(sum);
                }
            },
        );
    }
}

#[inline(always)]
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
