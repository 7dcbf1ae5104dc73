//! Colour operations, as torchvision defines them for `uint8` tensors (`transforms/_functional_tensor.py`).
//!
//! Most blend a picture with another: `clamp(factor x + (1 - factor) y, 0, 255)`, truncated.

use crate::Picture;
use crate::simd::dispatch;

#[inline(always)]
fn blend(x: u8, y: f32, factor: f32) -> u8 {
    byte(factor * f32::from(x) + (1.0 - factor) * y)
}

/// Truncates a number of at most 255, like `as u8` except for fractions above 0.9999. No vector instruction truncates
/// to bytes; numbers from 2^23 on have no fraction, and their low bits are the byte.
#[inline(always)]
fn byte(number: f32) -> u8 {
    (number.clamp(0.0, 255.0).max(0.5) - 0.4999 + 8_388_608.0).to_bits() as u8
}

/// `0.2989 r + 0.587 g + 0.114 b`, truncated: torchvision's `rgb_to_grayscale`, whose weights differ from Pillow's.
#[inline(always)]
fn grey(red: u8, green: u8, blue: u8) -> f32 {
    f32::from(byte(0.2989 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)))
}

/// Blends with one value.
fn blend_with(picture: &mut Picture, other: f32, factor: f32) {
    dispatch(
        #[inline(always)]
        || {
            for value in picture.pixels_mut() {
                *value = blend(*value, other, factor);
            }
        },
    );
}

/// `adjust_brightness`: blends with black.
pub(crate) fn brightness(picture: &mut Picture, factor: f32) {
    blend_with(picture, 0.0, factor);
}

/// `adjust_contrast`: blends with the mean of the grey values.
pub(crate) fn contrast(picture: &mut Picture, factor: f32) {
    let mut sum = 0_u64;
    if picture.channels() == 1 {
        sum = picture.pixels().iter().map(|&value| u64::from(value)).sum();
    } else {
        let pixels = picture.pixels().as_chunks().0;
        dispatch(
            #[inline(always)]
            || {
                for block in pixels.chunks(BLOCK) {
                    let [red, green, blue] = planes(block);
                    let grey = |at: usize| grey(red[at], green[at], blue[at]) as i32;
                    // A short block is padded with black.
                    sum += (0..BLOCK).map(grey).sum::<i32>() as u64;
                }
            },
        );
    }
    let count = picture.pixels().len() / picture.channels();
    blend_with(picture, (sum as f64 / count as f64) as f32, factor);
}

/// `adjust_saturation`: blends with the grey values.
pub(crate) fn saturation(picture: &mut Picture, factor: f32) {
    each(picture, |red, green, blue| {
        let grey = grey(red, green, blue);
        [red, green, blue].map(|value| blend(value, grey, factor))
    });
}

/// `adjust_hue`: rotates HSV's hue by `turns`.
pub(crate) fn hue(picture: &mut Picture, turns: f32) {
    each(picture, |red, green, blue| turned([red, green, blue], turns));
}

/// Pixels computed together.
const BLOCK: usize = 64;

#[inline(always)]
fn planes(block: &[[u8; 3]]) -> [[u8; BLOCK]; 3] {
    let mut planes = [[0; BLOCK]; 3];
    let [reds, greens, blues] = &mut planes;
    for (((rgb, red), green), blue) in block.iter().zip(reds).zip(greens).zip(blues) {
        [*red, *green, *blue] = *rgb;
    }
    planes
}

/// Maps each pixel of a colour picture.
#[inline(always)]
fn each(picture: &mut Picture, of: impl Fn(u8, u8, u8) -> [u8; 3]) {
    if picture.channels() == 1 {
        return;
    }
    dispatch(
        #[inline(always)]
        || {
            for block in picture.pixels_mut().as_chunks_mut::<3>().0.chunks_mut(BLOCK) {
                let [mut reds, mut greens, mut blues] = planes(block);
                for at in 0..BLOCK {
                    [reds[at], greens[at], blues[at]] = of(reds[at], greens[at], blues[at]);
                }
                for (at, rgb) in block.iter_mut().enumerate() {
                    *rgb = [reds[at], greens[at], blues[at]];
                }
            }
        },
    );
}

/// Rotates a colour's hue. Instead of six cases, a channel is `v - v s clamp(min(k, 4 - k), 0, 1)` with `k = (n + 6 h)
/// mod 6` and `n` 5, 3 and 1 for red, green and blue
/// (<https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative>).
#[inline(always)]
fn turned(rgb: [u8; 3], turns: f32) -> [u8; 3] {
    let [red, green, blue] = rgb.map(f32::from);
    let most = red.max(green).max(blue);
    let spread = most - red.min(green).min(blue);
    let divisor = if spread == 0.0 { 1.0 } else { spread };
    // In sixths of a turn.
    let sixths = if most == red {
        (green - blue) / divisor
    } else if most == green {
        2.0 + (blue - red) / divisor
    } else {
        4.0 + (red - green) / divisor
    };
    let sixths = sixths + 6.0 * turns;
    [5.0, 3.0, 1.0].map(|n| {
        let k = n + sixths;
        let k = k - 6.0 * (k * (1.0 / 6.0)).floor();
        let share = k.min(4.0 - k).clamp(0.0, 1.0);
        // `convert_image_dtype` scales by 256 less a thousandth, and truncates.
        byte((most - spread * share) * (255.999 / 255.0))
    })
}

/// `adjust_sharpness`: blends with the weighted mean of 3x3 pixels, the middle one counted five times; the border is
/// unchanged.
pub(crate) fn sharpness(picture: &mut Picture, factor: f32) {
    let ((height, width), channels) = (picture.size(), picture.channels());
    if height <= 2 || width <= 2 {
        return;
    }
    let row = width * channels;
    let source = picture.pixels().to_vec();
    let out = picture.pixels_mut();
    dispatch(
        #[inline(always)]
        || {
            for y in 1..height - 1 {
                let [above, here, below] = [y - 1, y, y + 1].map(|y| &source[y * row..][..row]);
                let inner = channels..row - channels;
                for (at, out) in inner.clone().zip(&mut out[y * row..][inner]) {
                    let column = |at: usize| {
                        u32::from(above[at]) + u32::from(here[at]) + u32::from(below[at])
                    };
                    let sum = column(at - channels)
                        + column(at)
                        + column(at + channels)
                        + 4 * u32::from(here[at]);
                    // `_cast_squeeze_out` rounds halves to even; 13ths have no halves.
                    let mean = (2 * sum + 13) / 26;
                    *out = blend(here[at], mean as f32, factor);
                }
            }
        },
    );
}

/// `posterize`: keeps the highest `bits` bits.
pub(crate) fn posterize(picture: &mut Picture, bits: u32) {
    let mask = (0xFF00_u32 >> bits) as u8;
    table(picture, |value| value & mask);
}

/// `solarize`: inverts values from `threshold` on.
pub(crate) fn solarize(picture: &mut Picture, threshold: f32) {
    table(picture, |value| if f32::from(value) >= threshold { 255 - value } else { value });
}

/// `autocontrast`: stretches each channel to 0 to 255.
pub(crate) fn autocontrast(picture: &mut Picture) {
    tables(picture, |counts| {
        let first = counts.iter().position(|&count| count > 0).unwrap_or_default();
        let last = counts.iter().rposition(|&count| count > 0).unwrap_or_default();
        if first == last {
            return identity();
        }
        let scale = 255.0 / (last - first) as f32;
        std::array::from_fn(|value| ((value as f32 - first as f32) * scale).clamp(0.0, 255.0) as u8)
    });
}

/// `equalize`: spreads each channel's values so that they occur about equally often.
pub(crate) fn equalize(picture: &mut Picture) {
    tables(picture, |counts| {
        let last = counts.iter().rposition(|&count| count > 0).unwrap_or_default();
        let step = counts[..last].iter().sum::<u32>() / 255;
        if step == 0 {
            return identity();
        }
        let mut below = 0;
        std::array::from_fn(|value| {
            let level = if value == 0 { 0 } else { (below + step / 2) / step };
            below += counts[value];
            level.min(255) as u8
        })
    });
}

fn identity() -> [u8; 256] {
    std::array::from_fn(|value| value as u8)
}

/// Maps each value.
fn table(picture: &mut Picture, of: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|value| of(value as u8));
    for value in picture.pixels_mut() {
        *value = table[usize::from(*value)];
    }
}

/// Maps each value through its channel's table, made from the channel's histogram.
fn tables(picture: &mut Picture, of: impl Fn(&[u32; 256]) -> [u8; 256]) {
    let channels = picture.channels();
    for channel in 0..channels {
        let mut counts = [0; 256];
        for &value in picture.pixels().iter().skip(channel).step_by(channels) {
            counts[usize::from(value)] += 1;
        }
        let table = of(&counts);
        for value in picture.pixels_mut().iter_mut().skip(channel).step_by(channels) {
            *value = table[usize::from(*value)];
        }
    }
}
