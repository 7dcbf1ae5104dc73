//! The strokes of a picture that is light on dark, without the background.

use image::Luma;

use super::polarity::{frame, quantile, sorted};
use vit_pictures::Plane;

/// What is narrower than this share of the longer side is a stroke, what is wider is background.
const WIDEST: f64 = 1.0 / 3.0;
/// Of all pixels the share that are strokes through and through, at least.
const FULL: f64 = 0.001;
/// The least contrast of strokes. Paper alone has less.
const FAINTEST: f32 = 0.06;
/// Of the strokes' contrast, the shares below which the background's leavings are cut: as high as the frame's show to be
/// necessary, between these.
const CUT: (f32, f32) = (0.1, 0.4);
/// A part of fewer than this share of the largest part's ink is a speck.
const SPECK: f32 = 0.05;

/// The strokes as 0 (none) to 1, specks left out; none where nothing stands out.
///
/// The background is the picture's opening by a square, in which nothing narrower than the square is left; what the
/// picture has above it is its white top-hat (Gonzalez and Woods, Digital Image Processing, 9.6). It follows light that
/// falls unevenly, but for a slope at the border, which is therefore taken away first.
pub(super) fn of(plane: &Plane) -> Option<Plane> {
    let mut ink = levelled(plane);
    let reach = (0.5 * WIDEST * f64::from(ink.width().max(ink.height()))).ceil() as usize;
    let background = filtered(&filtered(&ink, reach, f32::min), reach, f32::max);
    for (value, ground) in ink.iter_mut().zip(background.as_raw()) {
        *value -= ground;
    }
    let full = quantile(&sorted(ink.iter().copied()), 1.0 - FULL);
    if full < FAINTEST {
        return None;
    }
    let leavings = quantile(&sorted(frame(&ink).map(|(_, _, value)| value)), 0.75);
    let cut = (2.0 * leavings).clamp(CUT.0 * full, CUT.1 * full);
    for value in ink.iter_mut() {
        *value = ((*value - cut) / (full - cut)).clamp(0.0, 1.0);
    }
    remove_specks(&mut ink);
    Some(ink)
}

/// Without the slope that the frame has. The frame is symmetric, so that least squares across and down are two problems.
fn levelled(plane: &Plane) -> Plane {
    let middle = |side: u32| 0.5 * (side - 1) as f32;
    let (middle_x, middle_y) = (middle(plane.width()), middle(plane.height()));
    let offset = |x: u32, y: u32| (x as f32 - middle_x, y as f32 - middle_y);
    let (mut products, mut squares) = ((0.0, 0.0), (f32::MIN_POSITIVE, f32::MIN_POSITIVE));
    for (x, y, value) in frame(plane) {
        let (x, y) = offset(x, y);
        products = (products.0 + x * value, products.1 + y * value);
        squares = (squares.0 + x * x, squares.1 + y * y);
    }
    let (across, down) = (products.0 / squares.0, products.1 / squares.1);
    let mut level = plane.clone();
    for (x, y, pixel) in level.enumerate_pixels_mut() {
        let (x, y) = offset(x, y);
        pixel.0[0] -= across * x + down * y;
    }
    level
}

/// The extreme of the square around each pixel.
fn filtered(plane: &Plane, reach: usize, extreme: fn(f32, f32) -> f32) -> Plane {
    let rows = |plane: &Plane| {
        let width = plane.width() as usize;
        let rows = plane.as_raw().chunks(width);
        let values = rows.flat_map(|row| sliding(row, reach, extreme)).collect();
        Plane::from_raw(plane.width(), plane.height(), values).expect("as many as before")
    };
    let transposed = |plane: &Plane| {
        Plane::from_fn(plane.height(), plane.width(), |x, y| *plane.get_pixel(y, x))
    };
    transposed(&rows(&transposed(&rows(plane))))
}

/// The extreme of each number and those within `reach` of it: windows are doubled until two of them make one.
fn sliding(line: &[f32], reach: usize, extreme: fn(f32, f32) -> f32) -> Vec<f32> {
    let window = 2 * reach + 1;
    // NaN is no extreme of anything.
    let beyond = std::iter::repeat_n(f32::NAN, reach);
    let mut padded: Vec<f32> = beyond.clone().chain(line.iter().copied()).chain(beyond).collect();
    let mut span = 1;
    while 2 * span <= window {
        for at in 0..padded.len() - span {
            padded[at] = extreme(padded[at], padded[at + span]);
        }
        span *= 2;
    }
    let ends = &padded[window - span..];
    padded.iter().zip(ends).take(line.len()).map(|(&a, &b)| extreme(a, b)).collect()
}

/// Clears the parts, joined by sides or corners, that have little ink.
fn remove_specks(ink: &mut Plane) {
    let (width, height) = ink.dimensions();
    let mut seen = vec![false; ink.as_raw().len()];
    let mut parts: Vec<(f32, Vec<(u32, u32)>)> = Vec::new();
    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
        let (mut amount, mut part, mut open) = (0.0, Vec::new(), vec![(x, y)]);
        while let Some((x, y)) = open.pop() {
            let value = ink.get_pixel(x, y).0[0];
            let seen = &mut seen[(y * width + x) as usize];
            if *seen || value == 0.0 {
                continue;
            }
            *seen = true;
            amount += value;
            part.push((x, y));
            let around = |at: u32, end: u32| at.saturating_sub(1)..=(at + 1).min(end - 1);
            let columns = around(x, width);
            open.extend(around(y, height).flat_map(|y| columns.clone().map(move |x| (x, y))));
        }
        if !part.is_empty() {
            parts.push((amount, part));
        }
    }
    let largest = parts.iter().map(|&(amount, _)| amount).fold(0.0, f32::max);
    let specks = parts.iter().filter(|&&(amount, _)| amount < SPECK * largest);
    for &(x, y) in specks.flat_map(|(_, part)| part) {
        ink.put_pixel(x, y, Luma([0.0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upright stroke, a tenth of the width, with light that falls from the side.
    fn stroke(slope: f32) -> Plane {
        Plane::from_fn(100, 80, |x, y| {
            let is_ink = (45..55).contains(&x) && (20..60).contains(&y);
            Luma([slope * x as f32 / 100.0 + if is_ink { 0.5 } else { 0.0 }])
        })
    }

    #[test]
    fn strokes_are_left_whole_and_the_background_is_gone() {
        for slope in [0.0, 0.4] {
            let ink = of(&stroke(slope)).expect("a stroke");
            for (x, y, pixel) in ink.enumerate_pixels() {
                let is_ink = (45..55).contains(&x) && (20..60).contains(&y);
                let expected = if is_ink { 0.9..=1.0 } else { 0.0..=0.0 };
                assert!(expected.contains(&pixel.0[0]), "{} at {x}, {y} of {slope}", pixel.0[0]);
            }
        }
    }

    #[test]
    fn specks_are_no_strokes() {
        let mut picture = stroke(0.0);
        picture.put_pixel(5, 5, Luma([1.0]));
        assert_eq!(of(&picture), of(&stroke(0.0)));
    }

    #[test]
    fn nothing_stands_out_of_blank_paper() {
        assert_eq!(of(&Plane::from_fn(90, 60, |x, _| Luma([x as f32 / 90.0]))), None);
        assert_eq!(of(&Plane::from_pixel(1, 1, Luma([1.0]))), None);
    }

    #[test]
    fn windows_slide_over_every_number() {
        let line = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0];
        for reach in [0, 1, 2, 3, 20] {
            let naive = |at: usize| {
                let around = &line[at.saturating_sub(reach)..(at + reach + 1).min(line.len())];
                around.iter().copied().fold(f32::NAN, f32::max)
            };
            let expected: Vec<f32> = (0..line.len()).map(naive).collect();
            assert_eq!(sliding(&line, reach, f32::max), expected, "{reach}");
        }
    }
}
