//! Whether a picture is dark on light, such as ink on paper, or light on dark, as MNIST is.

use vit_pictures::Plane;

/// The frame around a picture that counts as its background, as a share of the shorter side.
const FRAME: f64 = 0.05;
/// The shares of pixels that noise, or a stroke across the frame, may make the darkest or lightest.
const OUTLIERS_OF_FRAME: f64 = 0.1;
const OUTLIERS: f64 = 0.01;

/// Dark as light, and light as dark.
pub(super) fn invert(plane: &mut Plane) {
    for value in plane.iter_mut() {
        *value = 1.0 - *value;
    }
}

/// Whether what stands out from the background is darker than that: how far the darkest pixels lie below the frame's
/// dark ones is compared with how far the lightest lie above its light ones, so that uneven light does not count.
pub(super) fn is_dark_on_light(plane: &Plane) -> bool {
    let frame = sorted(frame(plane).map(|(_, _, value)| value));
    let all = sorted(plane.iter().copied());
    let below = quantile(&frame, OUTLIERS_OF_FRAME) - quantile(&all, OUTLIERS);
    let above = quantile(&all, 1.0 - OUTLIERS) - quantile(&frame, 1.0 - OUTLIERS_OF_FRAME);
    below > above
}

/// The pixels along the border, with their places.
pub(super) fn frame(plane: &Plane) -> impl Iterator<Item = (u32, u32, f32)> {
    let (width, height) = plane.dimensions();
    let thickness = ((FRAME * f64::from(width.min(height))) as u32).max(1);
    let inside = move |at: u32, end: u32| (thickness..end.saturating_sub(thickness)).contains(&at);
    let pixels = plane.enumerate_pixels();
    let framing = pixels.filter(move |&(x, y, _)| !(inside(x, width) && inside(y, height)));
    framing.map(|(x, y, pixel)| (x, y, pixel.0[0]))
}

pub(super) fn sorted(values: impl IntoIterator<Item = f32>) -> Vec<f32> {
    let mut values: Vec<f32> = values.into_iter().collect();
    values.sort_unstable_by(f32::total_cmp);
    values
}

/// Of numbers in order, the one that this share of them lies below.
pub(super) fn quantile(sorted: &[f32], share: f64) -> f32 {
    sorted[(share * (sorted.len() - 1) as f64).round() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    fn ring(ink: f32, ground: impl Fn(u32, u32) -> f32) -> Plane {
        Plane::from_fn(60, 80, |x, y| {
            let distance = f64::from(x.abs_diff(30)).hypot(f64::from(y.abs_diff(40)));
            Luma([if (15.0..20.0).contains(&distance) { ink } else { ground(x, y) }])
        })
    }

    #[test]
    fn ink_on_paper_is_told_from_chalk_on_a_board() {
        assert!(is_dark_on_light(&ring(0.0, |_, _| 1.0)));
        assert!(!is_dark_on_light(&ring(1.0, |_, _| 0.0)));
        assert!(is_dark_on_light(&ring(0.3, |_, _| 0.5)));
        assert!(!is_dark_on_light(&ring(0.5, |_, _| 0.3)));
    }

    #[test]
    fn uneven_light_does_not_count() {
        let gradient = |x: u32, y: u32| 0.3 + 0.005 * (x + y) as f32;
        assert!(is_dark_on_light(&ring(0.0, gradient)));
        assert!(!is_dark_on_light(&ring(1.0, |x, y| 0.7 * gradient(x, y))));
    }

    #[test]
    fn a_blank_picture_stays_as_it_is() {
        assert!(!is_dark_on_light(&Plane::from_pixel(1, 1, Luma([1.0]))));
        assert!(!is_dark_on_light(&Plane::from_pixel(30, 20, Luma([0.0]))));
    }
}
