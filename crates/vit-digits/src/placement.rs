//! Fitting a plane to a model's size: strokes placed like MNIST's digits, or the whole picture.

use image::Luma;
use image::imageops::{self, FilterType};
use vit_pictures::Plane;

/// Longest side of a digit relative to the image: MNIST scales digits to 20x20 of 28 pixels, and moves their centre of
/// mass to the middle (<https://yann.lecun.com/exdb/mnist/>).
const DIGIT: f64 = 20.0 / 28.0;
/// Strokes are widened at this multiple of the model's size.
const FINER: u32 = 4;
/// Smallest width of a stroke, relative to the image. Nine in ten MNIST digits have widths of 1.6 to 3.4 of 28 pixels.
const WIDTH: f32 = 2.0 / 28.0;

/// Places strokes like MNIST's. Thin strokes are widened, and the lightest pixel becomes 1, because scaling down would
/// make them fade.
#[must_use]
pub fn as_mnist(ink: &Plane, (width, height): (u32, u32)) -> Plane {
    let bounds = Bounds::of(ink);
    let longest = f64::from(bounds.width().max(bounds.height()));
    // Picture pixels per output pixel.
    let scale = longest / (DIGIT * f64::from(width.min(height)));
    let across = (scale * f64::from(width)).round().max(1.0) as u32;
    let down = (scale * f64::from(height)).round().max(1.0) as u32;
    let (x, y) = centre_of_mass(ink);
    let left = first(x, across, bounds.left, bounds.right);
    let top = first(y, down, bounds.top, bounds.bottom);
    let window = Plane::from_fn(across, down, |x, y| {
        let (x, y) = (i64::from(x) + left, i64::from(y) + top);
        let inside = u32::try_from(x).ok().zip(u32::try_from(y).ok());
        let pixel = inside.and_then(|(x, y)| ink.get_pixel_checked(x, y));
        pixel.copied().unwrap_or(Luma([0.0]))
    });
    let finer = stretched(&window, (FINER * width, FINER * height));
    let least = WIDTH * (FINER * width.min(height)) as f32;
    let mut placed = stretched(&widened(finer, least), (width, height));
    let lightest = placed.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    placed.iter_mut().for_each(|value| *value /= lightest);
    placed
}

/// Widens strokes to at least this mean width.
fn widened(ink: Plane, least: f32) -> Plane {
    let reach = 0.5 * (least - stroke_width(&ink));
    if reach <= 0.5 {
        return ink;
    }
    let end = reach.ceil() as i64;
    let disc: Vec<(i64, i64)> = (-end..=end)
        .flat_map(|y| (-end..=end).map(move |x| (x, y)))
        .filter(|&(x, y)| (x as f32).hypot(y as f32) <= reach)
        .collect();
    Plane::from_fn(ink.width(), ink.height(), |x, y| {
        let value = |&(dx, dy): &(i64, i64)| {
            let place =
                u32::try_from(i64::from(x) + dx).ok().zip(u32::try_from(i64::from(y) + dy).ok());
            place.and_then(|(x, y)| ink.get_pixel_checked(x, y)).map_or(0.0, |pixel| pixel.0[0])
        };
        Luma([disc.iter().map(value).fold(0.0, f32::max)])
    })
}

/// Mean stroke width: area over half the outline, which is the integral of the gradient's length.
fn stroke_width(ink: &Plane) -> f32 {
    let (mut area, mut outline) = (0.0, f32::MIN_POSITIVE);
    for (x, y, pixel) in ink.enumerate_pixels() {
        let next = |x, y| ink.get_pixel_checked(x, y).map_or(0.0, |pixel| pixel.0[0]);
        let value = pixel.0[0];
        area += value;
        outline += (next(x + 1, y) - value).hypot(next(x, y + 1) - value);
    }
    2.0 * area / outline
}

/// Start of a window of `length` centred on `centre`, moved as little as needed to contain all strokes.
fn first(centre: f64, length: u32, begin: u32, end: u32) -> i64 {
    let wanted = (centre - 0.5 * f64::from(length)).round() as i64;
    wanted.max(i64::from(end) - i64::from(length)).min(i64::from(begin))
}

/// The smallest rectangle with all ink, ends excluded.
struct Bounds {
    left: u32,
    right: u32,
    top: u32,
    bottom: u32,
}

impl Bounds {
    fn of(ink: &Plane) -> Self {
        let empty = Self { left: u32::MAX, right: 0, top: u32::MAX, bottom: 0 };
        let drawn = ink.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] > 0.0);
        drawn.fold(empty, |bounds, (x, y, _)| Self {
            left: bounds.left.min(x),
            right: bounds.right.max(x + 1),
            top: bounds.top.min(y),
            bottom: bounds.bottom.max(y + 1),
        })
    }

    fn width(&self) -> u32 {
        self.right - self.left
    }

    fn height(&self) -> u32 {
        self.bottom - self.top
    }
}

/// Centre of mass, in pixels from the corner.
fn centre_of_mass(ink: &Plane) -> (f64, f64) {
    let (mut mass, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
    for (x, y, pixel) in ink.enumerate_pixels() {
        let value = f64::from(pixel.0[0]);
        mass += value;
        sum_x += value * (f64::from(x) + 0.5);
        sum_y += value * (f64::from(y) + 0.5);
    }
    (sum_x / mass, sum_y / mass)
}

/// Keeps proportions, centred, padded with the colour of the border.
#[must_use]
pub fn padded(plane: &Plane, (width, height): (u32, u32)) -> Plane {
    let (from_width, from_height) = (f64::from(plane.width()), f64::from(plane.height()));
    let scale = (f64::from(width) / from_width).min(f64::from(height) / from_height);
    let scaled = |side: f64| (scale * side).round().max(1.0) as u32;
    let inner = stretched(plane, (scaled(from_width), scaled(from_height)));
    let around = border_median(plane);
    let mut whole = Plane::from_pixel(width, height, Luma([around]));
    let (left, top) = ((width - inner.width()) / 2, (height - inner.height()) / 2);
    imageops::replace(&mut whole, &inner, left.into(), top.into());
    whole
}

fn border_median(plane: &Plane) -> f32 {
    let (right, bottom) = (plane.width() - 1, plane.height() - 1);
    let is_border = |x: u32, y: u32| x == 0 || y == 0 || x == right || y == bottom;
    let pixels = plane.enumerate_pixels().filter(|&(x, y, _)| is_border(x, y));
    let mut values: Vec<f32> = pixels.map(|(_, _, pixel)| pixel.0[0]).collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// Stretches each side independently.
#[must_use]
pub fn stretched(plane: &Plane, (width, height): (u32, u32)) -> Plane {
    imageops::resize(plane, width, height, FilterType::Triangle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(size: (u32, u32), is_ink: impl Fn(u32, u32) -> bool) -> Plane {
        Plane::from_fn(size.0, size.1, |x, y| Luma([if is_ink(x, y) { 1.0 } else { 0.0 }]))
    }

    #[test]
    fn strokes_are_20_px_long_with_centred_mass() {
        // An L, whose centre of mass is low and to the left.
        let is_ink = |x: u32, y: u32| {
            (100..300).contains(&y) && ((20..50).contains(&x) || (20..120).contains(&x) && y >= 270)
        };
        let placed = as_mnist(&drawn((200, 320), is_ink), (28, 28));
        assert_eq!(placed.dimensions(), (28, 28));
        let (x, y) = centre_of_mass(&placed);
        assert!((x - 14.0).abs() < 0.2 && (y - 14.0).abs() < 0.2, "{x}, {y}");
        let half = drawn((28, 28), |x, y| placed.get_pixel(x, y).0[0] > 0.5);
        let bounds = Bounds::of(&half);
        assert_eq!((bounds.height(), bounds.width()), (20, 10));
        assert_eq!(placed.iter().copied().fold(0.0, f32::max), 1.0);
    }

    #[test]
    fn strokes_with_off_centre_mass_are_not_clipped() {
        // A large block, and a thin stroke far to its right.
        let is_ink = |x: u32, y: u32| x < 40 && y < 40 || x < 200 && y == 20;
        let placed = as_mnist(&drawn((200, 40), is_ink), (28, 28));
        let bounds = Bounds::of(&placed);
        assert!(bounds.width() >= 20, "{}", bounds.width());
        assert!(bounds.right <= 28 && placed.get_pixel(26, 13).0[0] > 0.0);
    }

    #[test]
    fn padding_keeps_proportions_and_the_border() {
        let plane = Plane::from_fn(40, 20, |x, y| {
            Luma([if (10..30).contains(&x) && (6..14).contains(&y) { 1.0 } else { 0.25 }])
        });
        let whole = padded(&plane, (20, 20));
        assert_eq!(whole.get_pixel(0, 0).0, [0.25]);
        assert_eq!(whole.get_pixel(10, 19).0, [0.25]);
        assert_eq!(whole.get_pixel(10, 10).0, [1.0]);
        let light = whole.iter().filter(|&&value| value > 0.625).count();
        assert_eq!(light, 40);
    }
}
