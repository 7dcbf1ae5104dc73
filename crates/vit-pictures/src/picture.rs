//! The pixels of one picture.

use crate::Error;
use crate::simd::dispatch;

/// A decoded picture: `u8` pixels of shape (height, width, channels), rows from the top, grey or RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pixels: Vec<u8>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Picture {
    /// Wraps `pixels` of shape (height, width, channels).
    ///
    /// # Errors
    /// If `channels` is neither 1 nor 3, a side is 0, or the number of pixels does not match.
    pub fn new(
        pixels: Vec<u8>,
        channels: usize,
        (height, width): (usize, usize),
    ) -> Result<Self, Error> {
        let expected = height.checked_mul(width).and_then(|area| area.checked_mul(channels));
        if ![1, 3].contains(&channels) || expected.is_none_or(|len| len == 0 || len != pixels.len())
        {
            return Err(Error::Shape { channels, height, width, got: pixels.len() });
        }
        Ok(Self { pixels, channels, height, width })
    }

    /// 1 for grey, 3 for RGB.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height and width in pixels.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Pixels of shape (height, width, channels).
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The pixels, without their shape.
    #[must_use]
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    pub(crate) fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// Applies `change` to the pixels, which must keep their number.
    pub(crate) fn map(self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        let length = self.pixels.len();
        let pixels = change(self.pixels);
        debug_assert_eq!(pixels.len(), length);
        Self { pixels, ..self }
    }

    /// Converts to grey (1) or RGB (3); unchanged if it already has `channels`.
    ///
    /// Grey is the luma of ITU-R 601-2, `L = 0.299 R + 0.587 G + 0.114 B`, in Pillow's fixed-point rounding.
    ///
    /// Pillow equivalent: `picture.convert("L")`, `picture.convert("RGB")`.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3.
    #[must_use]
    pub fn to_channels(self, channels: usize) -> Self {
        assert!([1, 3].contains(&channels), "expected 1 or 3 channels, got {channels}");
        let pixels = match (self.channels, channels) {
            (3, 1) => {
                let mut grey = vec![0; self.pixels.len() / 3];
                dispatch(
                    #[inline(always)]
                    || {
                        for (grey, &rgb) in grey.iter_mut().zip(self.pixels.as_chunks().0) {
                            *grey = luma(rgb);
                        }
                    },
                );
                grey
            }
            (1, 3) => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => return self,
        };
        Self { pixels, channels, ..self }
    }

    /// Writes the pixels as planes of shape (channels, height, width): `(pixel / 255 - mean) / std` for each channel.
    ///
    /// torchvision equivalent: `Normalize(mean, std)(ToTensor()(picture))`.
    ///
    /// # Panics
    /// If `mean` or `std` has fewer values than the picture has channels, or `planes` has another length than
    /// channels * height * width.
    pub fn write_planes(&self, mean: &[f32], std: &[f32], planes: &mut [f32]) {
        assert_eq!(planes.len(), self.pixels.len(), "expected a value for each pixel and channel");
        let plane = self.height * self.width;
        let planes = planes.chunks_exact_mut(plane).zip(mean.iter().zip(std));
        assert_eq!(planes.len(), self.channels, "expected a mean and deviation for each channel");
        for (channel, (plane, (mean, std))) in planes.enumerate() {
            // One multiplication and one addition; differs from the division by at most one rounding.
            let (scale, shift) = (1.0 / (255.0 * std), -mean / std);
            dispatch(
                #[inline(always)]
                || match self.channels {
                    1 => write_plane::<1>(&self.pixels, channel, scale, shift, plane),
                    _ => write_plane::<3>(&self.pixels, channel, scale, shift, plane),
                },
            );
        }
    }
}

#[inline(always)]
fn write_plane<const CHANNELS: usize>(
    pixels: &[u8],
    channel: usize,
    scale: f32,
    shift: f32,
    plane: &mut [f32],
) {
    for (value, pixel) in plane.iter_mut().zip(pixels.as_chunks::<CHANNELS>().0) {
        *value = f32::from(pixel[channel]) * scale + shift;
    }
}

/// Pillow's `L24` (`src/libImaging/Convert.c`): ITU-R 601-2's weights in 16 bits, rounded.
#[inline(always)]
pub(crate) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}
