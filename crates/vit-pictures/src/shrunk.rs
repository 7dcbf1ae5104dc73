//! A picture reduced while it is decoded, as planes of numbers in [0, 1], one a channel.

use std::array;

use image::Luma;
use image::metadata::Orientation;

use crate::plane::Plane;
use crate::upright::{upright, upright_size};

/// A picture reduced while it is decoded: see [`shrink`](crate::shrink).
pub struct Shrunk {
    /// Width and height in the file.
    pub(crate) size: (u32, u32),
    pub(crate) pixels: Shrinking,
    /// Orientation still to be applied.
    pub(crate) orientation: Option<Orientation>,
}

impl Shrunk {
    /// Width and height of the upright picture before it was reduced.
    #[must_use]
    pub fn upright_size(&self) -> (u32, u32) {
        upright_size(self.size, self.orientation)
    }

    /// Upright planes of numbers in [0, 1]: grey (luminance of ITU-R BT.709) or RGB. The background of transparent
    /// pixels is chosen to contrast with the picture.
    #[must_use]
    pub fn planes(&self, channels: usize) -> Vec<Plane> {
        let planes = self.pixels.planes(channels).into_iter().map(|plane| {
            let size = plane.dimensions();
            let (values, (width, height)) =
                upright::<Luma<f32>>(plane.into_raw(), size, self.orientation);
            Plane::from_raw(width, height, values).expect("as many as before")
        });
        planes.collect()
    }
}

/// Receives pixels in any order that a decoder produces.
pub(crate) trait Rows {
    /// Adds the pixels of a row in these columns. Each pixel is added once.
    fn add_row(
        &mut self,
        y: u32,
        columns: impl Iterator<Item = u32>,
        samples: impl Iterator<Item = u16>,
    );
}

/// The sample format of a file.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// 1 for grey, 3 for RGB, plus one for opacity.
    pub(crate) samples: usize,
    /// The value of white and of full opacity.
    pub(crate) most: u16,
}

/// Each square has up to four sums of eight bytes.
const MOST_SQUARES: u64 = 1 << 20;

/// Reduces a picture while its pixels arrive, in any order: for a large picture it holds only the sums of squares.
pub(crate) struct Shrinking {
    size: (u32, u32),
    kind: Kind,
    /// Side of a square in pixels.
    factor: u32,
    /// Squares in a row.
    across: usize,
    /// Sums of each square's samples; colours are multiplied by their opacity.
    sums: Vec<u64>,
}

impl Rows for Shrinking {
    fn add_row(
        &mut self,
        y: u32,
        columns: impl Iterator<Item = u32>,
        samples: impl Iterator<Item = u16>,
    ) {
        match self.kind.samples {
            1 => self.add::<1>(y, columns, samples),
            2 => self.add::<2>(y, columns, samples),
            3 => self.add::<3>(y, columns, samples),
            _ => self.add::<4>(y, columns, samples),
        }
    }
}

impl Shrinking {
    /// Reduces a picture by the largest whole factor that keeps its longest side at least `least`, or by a larger one
    /// if it would have more than [`MOST_SQUARES`] (only for models of more than 512 pixels a side).
    pub(crate) fn new(size: (u32, u32), kind: Kind, least: u32) -> Self {
        let (width, height) = size;
        let mut factor = (width.max(height) / least).max(1);
        let squares =
            |factor| u64::from(width.div_ceil(factor)) * u64::from(height.div_ceil(factor));
        while squares(factor) > MOST_SQUARES {
            factor += 1;
        }
        Self::by(factor, size, kind)
    }

    /// Reduces a picture by this factor.
    pub(crate) fn by(factor: u32, size: (u32, u32), kind: Kind) -> Self {
        let (width, height) = size;
        let [across, down] = [width, height].map(|side| side.div_ceil(factor) as usize);
        Self { size, kind, factor, across, sums: vec![0; across * down * kind.samples] }
    }

    fn add<const SAMPLES: usize>(
        &mut self,
        y: u32,
        columns: impl Iterator<Item = u32>,
        mut samples: impl Iterator<Item = u16>,
    ) {
        let has_alpha = SAMPLES.is_multiple_of(2);
        let row = (y / self.factor) as usize * self.across * SAMPLES;
        let (squares, _) = self.sums[row..][..self.across * SAMPLES].as_chunks_mut::<SAMPLES>();
        for x in columns {
            let pixel: [u64; SAMPLES] =
                array::from_fn(|_| u64::from(samples.next().unwrap_or_default()));
            let opacity = if has_alpha { pixel[SAMPLES - 1] } else { 1 };
            let square = &mut squares[(x / self.factor) as usize];
            for (at, sum) in square.iter_mut().enumerate() {
                let is_opacity = has_alpha && at + 1 == SAMPLES;
                *sum += if is_opacity { opacity } else { pixel[at] * opacity };
            }
        }
    }

    /// One plane of grey or three of RGB, transparent pixels over the background.
    pub(crate) fn planes(&self, channels: usize) -> Vec<Plane> {
        let background = match self.kind.samples {
            2 => self.background::<2>(),
            4 => self.background::<4>(),
            _ => 0.0,
        };
        match channels {
            1 => vec![self.plane(background, grey)],
            _ => (0..3).map(|channel| self.plane(background, |rgb| rgb[channel])).collect(),
        }
    }

    fn plane(&self, background: f64, light: impl Fn([f64; 3]) -> f64) -> Plane {
        let (width, height) = self.size;
        let [across, down] = [width, height].map(|side| side.div_ceil(self.factor));
        let mut values = Vec::with_capacity(across as usize * down as usize);
        if (self.kind.samples, self.factor) == (1, 1) {
            // Grey that is not reduced: each sum is a sample.
            let most = f64::from(self.kind.most);
            values.extend(self.sums.iter().map(|&sum| (sum as f64 / most) as f32));
        } else {
            let value = |Colour { rgb, alpha }| (light(rgb) + background * (1.0 - alpha)) as f32;
            match self.kind.samples {
                1 => values.extend(self.means::<1>().map(value)),
                2 => values.extend(self.means::<2>().map(value)),
                3 => values.extend(self.means::<3>().map(value)),
                _ => values.extend(self.means::<4>().map(value)),
            }
        }
        Plane::from_raw(across, down, values).expect("a value for each square")
    }

    /// RGB bytes over a background, with width and height.
    pub(crate) fn over(&self, background: [u8; 3]) -> (Vec<u8>, (u32, u32)) {
        let (width, height) = self.size;
        let [across, down] = [width, height].map(|side| side.div_ceil(self.factor));
        let bytes = |Colour { rgb, alpha }| {
            let behind = background.map(|light| f64::from(light) * (1.0 - alpha));
            [0, 1, 2].map(|at| (255.0 * rgb[at] + behind[at]).round() as u8)
        };
        let pixels = match self.kind.samples {
            1 => self.means::<1>().flat_map(bytes).collect(),
            2 => self.means::<2>().flat_map(bytes).collect(),
            3 => self.means::<3>().flat_map(bytes).collect(),
            _ => self.means::<4>().flat_map(bytes).collect(),
        };
        (pixels, (across, down))
    }

    /// The mean of each square, row by row.
    fn means<const SAMPLES: usize>(&self) -> impl Iterator<Item = Colour> {
        let pixels = |at: usize, side: u32| {
            let first = at as u32 * self.factor;
            f64::from((first + self.factor).min(side) - first)
        };
        let columns: Vec<f64> = (0..self.across).map(|x| pixels(x, self.size.0)).collect();
        let (squares, _) = self.sums.as_chunks::<SAMPLES>();
        squares.chunks_exact(self.across).enumerate().flat_map(move |(y, row)| {
            let rows = pixels(y, self.size.1);
            let counts: Vec<f64> = columns.iter().map(|columns| columns * rows).collect();
            row.iter().zip(counts).map(|(square, count)| self.kind.colour(square, count))
        })
    }

    /// Grey level behind transparent pixels: white or black, whichever contrasts more with a drawing on transparency;
    /// the mean of the picture if it is mostly opaque.
    fn background<const SAMPLES: usize>(&self) -> f64 {
        let mut whole = [0; SAMPLES];
        for square in self.sums.as_chunks::<SAMPLES>().0 {
            for (sum, of_square) in whole.iter_mut().zip(square) {
                *sum += of_square;
            }
        }
        let Colour { rgb, alpha } =
            self.kind.colour(&whole, f64::from(self.size.0) * f64::from(self.size.1));
        match grey(rgb) / alpha {
            mean if alpha > 0.5 => mean,
            mean if mean > 0.5 => 0.0,
            _ => 1.0,
        }
    }
}

impl Kind {
    /// The mean of `count` pixels from their sums.
    #[inline(always)]
    fn colour<const SAMPLES: usize>(self, sums: &[u64; SAMPLES], count: f64) -> Colour {
        let (most, has_alpha) = (f64::from(self.most), SAMPLES.is_multiple_of(2));
        let opaque = if has_alpha { count * most * most } else { count * most };
        let of = |at: usize| sums[at] as f64 / opaque;
        let rgb = if SAMPLES < 3 { [of(0); 3] } else { [of(0), of(1), of(2)] };
        let alpha = if has_alpha { sums[SAMPLES - 1] as f64 / (count * most) } else { 1.0 };
        Colour { rgb, alpha }
    }
}

/// In [0, 1], colour multiplied by opacity.
struct Colour {
    rgb: [f64; 3],
    alpha: f64,
}

/// Luminance of ITU-R BT.709; a grey pixel keeps its exact value.
#[inline]
fn grey([red, green, blue]: [f64; 3]) -> f64 {
    green + 0.2126 * (red - green) + 0.0722 * (blue - green)
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    const BYTES: u16 = 255;

    /// The planes of pixels that arrive in this order.
    fn planes_of<const SAMPLES: usize>(
        (width, height): (u32, u32),
        most: u16,
        (channels, least): (usize, u32),
        order: impl Iterator<Item = (u32, u32)>,
        pixel: impl Fn(u32, u32) -> [u16; SAMPLES],
    ) -> Vec<Plane> {
        let kind = Kind { samples: SAMPLES, most };
        let mut shrinking = Shrinking::new((width, height), kind, least);
        order.for_each(|(x, y)| shrinking.add_row(y, iter::once(x), pixel(x, y).into_iter()));
        shrinking.planes(channels)
    }

    fn row_by_row((width, height): (u32, u32)) -> impl DoubleEndedIterator<Item = (u32, u32)> {
        (0..height).flat_map(move |y| (0..width).map(move |x| (x, y)))
    }

    fn grey_of<const SAMPLES: usize>(
        size: (u32, u32),
        most: u16,
        pixel: impl Fn(u32, u32) -> [u16; SAMPLES],
    ) -> Vec<f32> {
        planes_of(size, most, (1, 256), row_by_row(size), pixel).remove(0).into_raw()
    }

    #[test]
    fn grey_values_are_exact_in_every_sample_format() {
        let size = (16, 16);
        let byte = |x: u32, y: u32| (16 * y + x) as u16;
        let wide = |x: u32, y: u32| 257 * byte(x, y);
        let expected: Vec<f32> = (0..=255_u8).map(|byte| f32::from(byte) / 255.0).collect();
        assert_eq!(grey_of(size, BYTES, |x, y| [byte(x, y)]), expected);
        assert_eq!(grey_of(size, BYTES, |x, y| [byte(x, y); 3]), expected);
        assert_eq!(grey_of(size, BYTES, |x, y| [byte(x, y), 255]), expected);
        assert_eq!(
            grey_of(size, BYTES, |x, y| [byte(x, y), byte(x, y), byte(x, y), 255]),
            expected
        );
        assert_eq!(grey_of(size, u16::MAX, |x, y| [wide(x, y)]), expected);
        assert_eq!(
            grey_of(size, u16::MAX, |x, y| [wide(x, y), wide(x, y), wide(x, y), u16::MAX]),
            expected
        );
        let three = planes_of(size, BYTES, (3, 256), row_by_row(size), |x, y| [byte(x, y)]);
        assert!(three.len() == 3 && three.iter().all(|plane| plane.as_raw() == &expected));
    }

    #[test]
    fn sixteen_bits_are_kept() {
        let values = grey_of((2, 1), u16::MAX, |x, _| [1000 + x as u16]);
        assert_eq!(values, [1000.0 / 65535.0, 1001.0 / 65535.0]);
    }

    #[test]
    fn a_drawing_on_transparency_contrasts_with_its_background() {
        let drawn = |ink| grey_of((4, 1), BYTES, |x, _| [ink, if x == 1 { 255 } else { 0 }]);
        assert_eq!(drawn(0), [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(drawn(255), [0.0, 1.0, 0.0, 0.0]);
        let half = grey_of((4, 1), BYTES, |x, _| [0, 0, 0, if x == 1 { 51 } else { 0 }]);
        assert_eq!(half, [1.0, 0.8, 1.0, 1.0]);
        assert_eq!(grey_of((1, 1), BYTES, |_, _| [0, 0]), [1.0]);
    }

    #[test]
    fn transparency_around_an_opaque_picture_gets_its_mean() {
        let picture = grey_of((4, 1), BYTES, |x, _| [204, if x == 0 { 0 } else { 255 }]);
        assert_eq!(picture, [0.8; 4]);
    }

    #[test]
    fn large_pictures_are_averaged_completely_in_any_order() {
        let size = (5, 4);
        let pixel = |x, y| [if x == 4 || y == 0 { 255 } else { 0 }; 3];
        let planes = planes_of(size, BYTES, (3, 2), row_by_row(size), pixel);
        assert_eq!(planes[0].dimensions(), (3, 2));
        assert_eq!(planes[0].as_raw(), &[0.5, 0.5, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(planes_of(size, BYTES, (3, 2), row_by_row(size).rev(), pixel), planes);
    }
}
