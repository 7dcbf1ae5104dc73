//! A picture that is shrunk while it is decoded, as planes of numbers in [0, 1], one for each channel.

use std::array;

use image::metadata::Orientation;
use image::{ImageBuffer, Luma};

use crate::upright::{upright, upright_size};

/// One channel.
pub type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// A picture that was shrunk while it was decoded: see [`shrink`](crate::shrink).
pub struct Shrunk {
    /// Width and height, in the file.
    pub(crate) size: (u32, u32),
    pub(crate) pixels: Shrinking,
    /// How it is to be turned.
    pub(crate) orientation: Option<Orientation>,
}

impl Shrunk {
    /// Width and height of the upright picture before it was shrunk.
    #[must_use]
    pub fn upright_size(&self) -> (u32, u32) {
        upright_size(self.size, self.orientation)
    }

    /// Upright planes of numbers in [0, 1], one of grey (the luminance of ITU-R BT.709) or three of RGB. Behind transparency
    /// lies a colour that the picture stands out from.
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

/// What takes pixels in whatever order a decoder gives them.
pub(crate) trait Rows {
    /// Adds pixels of a row, those in these columns. Each is added once.
    fn add_row(
        &mut self,
        y: u32,
        columns: impl Iterator<Item = u32>,
        samples: impl Iterator<Item = u16>,
    );
}

/// What a file's pixels are.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// 1 of grey or 3 of red, green and blue, and one more where there is transparency.
    pub(crate) samples: usize,
    /// The lightest, or opaque.
    pub(crate) most: u16,
}

/// Of up to four sums of eight bytes.
const MOST_SQUARES: u64 = 1 << 20;

/// A picture that is shrunk while its pixels come, in whatever order: of the large ones it never holds more than the means
/// of squares.
pub(crate) struct Shrinking {
    size: (u32, u32),
    kind: Kind,
    /// The side of a square.
    factor: u32,
    /// How many there are in a row.
    across: usize,
    /// Of each square, its samples; those of colour times their opacity, where there is one.
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
    /// A picture whose longest side is `least` or more is shrunk by the whole factor that leaves it no less; or by a larger one,
    /// for models of more than 512 pixels a side, where it would have more than [`MOST_SQUARES`].
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

    /// A picture that is shrunk by this factor.
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

    /// One plane of grey, or three of red, green and blue; transparency shows the background.
    pub(crate) fn planes(&self, channels: usize) -> Vec<Plane> {
        let background = if self.kind.has_alpha() { self.background() } else { 0.0 };
        match channels {
            1 => vec![self.plane(background, grey)],
            _ => (0..3).map(|channel| self.plane(background, |rgb| rgb[channel])).collect(),
        }
    }

    fn plane(&self, background: f64, light: impl Fn([f64; 3]) -> f64) -> Plane {
        let (width, height) = self.size;
        let [across, down] = [width, height].map(|side| side.div_ceil(self.factor));
        Plane::from_fn(across, down, |x, y| {
            let Colour { rgb, alpha } = self.mean(x, y);
            Luma([(light(rgb) + background * (1.0 - alpha)) as f32])
        })
    }

    /// RGB bytes over a background, and their width and height.
    pub(crate) fn over(&self, background: [u8; 3]) -> (Vec<u8>, (u32, u32)) {
        let (width, height) = self.size;
        let [across, down] = [width, height].map(|side| side.div_ceil(self.factor));
        let places = (0..down).flat_map(|y| (0..across).map(move |x| (x, y)));
        let pixels = places.flat_map(|(x, y)| {
            let Colour { rgb, alpha } = self.mean(x, y);
            let behind = background.map(|light| f64::from(light) * (1.0 - alpha));
            [0, 1, 2].map(|at| (255.0 * rgb[at] + behind[at]).round() as u8)
        });
        (pixels.collect(), (across, down))
    }

    /// That of a square.
    #[inline]
    fn mean(&self, x: u32, y: u32) -> Colour {
        let pixels = |at: u32, side: u32| ((at + 1) * self.factor).min(side) - at * self.factor;
        let count = f64::from(pixels(x, self.size.0)) * f64::from(pixels(y, self.size.1));
        let at = (y as usize * self.across + x as usize) * self.kind.samples;
        self.kind.colour(&self.sums[at..][..self.kind.samples], count)
    }

    /// What to see through transparency: behind a drawing on nothing, white or black, whichever it stands out from; around an
    /// opaque picture, its own mean.
    fn background(&self) -> f64 {
        let mut whole = vec![0; self.kind.samples];
        for square in self.sums.chunks_exact(self.kind.samples) {
            for (sum, &of_square) in whole.iter_mut().zip(square) {
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
    const fn has_alpha(self) -> bool {
        self.samples.is_multiple_of(2)
    }

    /// The mean of so many pixels, of which these are the sums.
    #[inline]
    fn colour(self, sums: &[u64], count: f64) -> Colour {
        let most = f64::from(self.most);
        let opaque = if self.has_alpha() { count * most * most } else { count * most };
        let of = |at: usize| sums[at] as f64 / opaque;
        let rgb = if self.samples < 3 { [of(0); 3] } else { [of(0), of(1), of(2)] };
        let alpha =
            if self.has_alpha() { sums[self.samples - 1] as f64 / (count * most) } else { 1.0 };
        Colour { rgb, alpha }
    }
}

/// In [0, 1], the light times the opacity.
struct Colour {
    rgb: [f64; 3],
    alpha: f64,
}

/// The luminance of ITU-R BT.709; of a grey pixel its grey itself, to the bit.
#[inline]
fn grey([red, green, blue]: [f64; 3]) -> f64 {
    green + 0.2126 * (red - green) + 0.0722 * (blue - green)
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    const BYTES: u16 = 255;

    /// The planes of pixels that come in this order.
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
    fn bytes_of_grey_are_themselves_in_any_kind_of_picture() {
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
    fn a_drawing_on_nothing_stands_out() {
        let drawn = |ink| grey_of((4, 1), BYTES, |x, _| [ink, if x == 1 { 255 } else { 0 }]);
        assert_eq!(drawn(0), [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(drawn(255), [0.0, 1.0, 0.0, 0.0]);
        let half = grey_of((4, 1), BYTES, |x, _| [0, 0, 0, if x == 1 { 51 } else { 0 }]);
        assert_eq!(half, [1.0, 0.8, 1.0, 1.0]);
        assert_eq!(grey_of((1, 1), BYTES, |_, _| [0, 0]), [1.0]);
    }

    #[test]
    fn around_an_opaque_picture_transparency_is_as_light_as_the_picture() {
        let picture = grey_of((4, 1), BYTES, |x, _| [204, if x == 0 { 0 } else { 255 }]);
        assert_eq!(picture, [0.8; 4]);
    }

    #[test]
    fn large_pictures_are_averaged_to_the_last_row_in_any_order() {
        let size = (5, 4);
        let pixel = |x, y| [if x == 4 || y == 0 { 255 } else { 0 }; 3];
        let planes = planes_of(size, BYTES, (3, 2), row_by_row(size), pixel);
        assert_eq!(planes[0].dimensions(), (3, 2));
        assert_eq!(planes[0].as_raw(), &[0.5, 0.5, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(planes_of(size, BYTES, (3, 2), row_by_row(size).rev(), pixel), planes);
    }
}
