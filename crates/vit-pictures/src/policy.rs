//! TrivialAugment Wide: one random operation of random strength for each view (arXiv 2103.10158).
//!
//! Operations, strengths and directions are torchvision's `TrivialAugmentWide` with its defaults: 31 strengths,
//! nearest-neighbour interpolation, black outside.

use vit_random::Stream;

use crate::{Picture, colour};

const STRENGTHS: u32 = 31;

/// One of the 14 operations, with its magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    Identity,
    /// Tangent of the angle.
    ShearX(f64),
    ShearY(f64),
    /// Pixels.
    TranslateX(i32),
    TranslateY(i32),
    /// Degrees, anticlockwise.
    Rotate(f64),
    /// Factors.
    Brightness(f32),
    Saturation(f32),
    Contrast(f32),
    Sharpness(f32),
    /// Bits.
    Posterize(u32),
    /// Smallest value that is inverted.
    Solarize(f32),
    AutoContrast,
    Equalize,
}

pub(crate) fn trivial(picture: Picture, stream: &mut Stream) -> Picture {
    draw(stream).apply(picture)
}

fn draw(stream: &mut Stream) -> Operation {
    let operation = stream.below(14);
    let strength = stream.below(STRENGTHS);
    let sign = if stream.below(2) == 1 { -1.0 } else { 1.0 };
    let up_to = |most: f64| sign * most * f64::from(strength) / f64::from(STRENGTHS - 1);
    let factor = (1.0 + up_to(0.99)) as f32;
    match operation {
        0 => Operation::Identity,
        1 => Operation::ShearX(up_to(0.99)),
        2 => Operation::ShearY(up_to(0.99)),
        3 => Operation::TranslateX(up_to(32.0) as i32),
        4 => Operation::TranslateY(up_to(32.0) as i32),
        5 => Operation::Rotate(up_to(135.0)),
        6 => Operation::Brightness(factor),
        7 => Operation::Saturation(factor),
        8 => Operation::Contrast(factor),
        9 => Operation::Sharpness(factor),
        // Python's `round`: halves to even.
        10 => Operation::Posterize(8 - (f64::from(strength) / 5.0).round_ties_even() as u32),
        11 => Operation::Solarize(255.0 - (255.0 * strength as f32) / (STRENGTHS - 1) as f32),
        12 => Operation::AutoContrast,
        _ => Operation::Equalize,
    }
}

impl Operation {
    pub(crate) fn apply(self, mut picture: Picture) -> Picture {
        let (height, width) = picture.size();
        match self {
            Self::Identity => {}
            // Around the corner: torchvision shears with `center=[0, 0]`.
            Self::ShearX(by) => return affine(picture, [1.0, by, 0.0, 1.0], (0.0, 0.0), (0, 0)),
            Self::ShearY(by) => return affine(picture, [1.0, 0.0, by, 1.0], (0.0, 0.0), (0, 0)),
            Self::TranslateX(by) => {
                return affine(picture, [1.0, 0.0, 0.0, 1.0], (0.0, 0.0), (by, 0));
            }
            Self::TranslateY(by) => {
                return affine(picture, [1.0, 0.0, 0.0, 1.0], (0.0, 0.0), (0, by));
            }
            Self::Rotate(degrees) => {
                let (sin, cos) = degrees.to_radians().sin_cos();
                let middle = (0.5 * width as f64, 0.5 * height as f64);
                return affine(picture, [cos, -sin, sin, cos], middle, (0, 0));
            }
            Self::Brightness(factor) => colour::brightness(&mut picture, factor),
            Self::Saturation(factor) => colour::saturation(&mut picture, factor),
            Self::Contrast(factor) => colour::contrast(&mut picture, factor),
            Self::Sharpness(factor) => colour::sharpness(&mut picture, factor),
            Self::Posterize(bits) => colour::posterize(&mut picture, bits),
            Self::Solarize(threshold) => colour::solarize(&mut picture, threshold),
            Self::AutoContrast => colour::autocontrast(&mut picture),
            Self::Equalize => colour::equalize(&mut picture),
        }
        picture
    }
}

/// Nearest-neighbour affine map: each pixel is read at `matrix (pixel - centre - moved) + centre`, black outside.
/// Coordinates are pixel centres.
fn affine(
    picture: Picture,
    [xx, xy, yx, yy]: [f64; 4],
    centre: (f64, f64),
    moved: (i32, i32),
) -> Picture {
    let ((height, width), channels) = (picture.size(), picture.channels());
    picture.map(|source| {
        let mut out = vec![0; source.len()];
        for (at, out) in out.chunks_exact_mut(channels).enumerate() {
            let x = (at % width) as f64 + 0.5 - centre.0 - f64::from(moved.0);
            let y = (at / width) as f64 + 0.5 - centre.1 - f64::from(moved.1);
            let from_x = (xx * x + xy * y + centre.0).floor();
            let from_y = (yx * x + yy * y + centre.1).floor();
            let inside = |from: f64, side: usize| (0.0..side as f64).contains(&from);
            if inside(from_x, width) && inside(from_y, height) {
                let from = (from_y as usize * width + from_x as usize) * channels;
                out.copy_from_slice(&source[from..][..channels]);
            }
        }
        out
    })
}
