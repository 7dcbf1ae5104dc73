//! Separating strokes from their background.

use image::Luma;
use vit_pictures::Plane;

/// Cells of the background grid along the picture's longer side.
const CELLS: u32 = 40;
/// A cell's background is the median over every third cell within this distance; a digit covers less than half of them.
const REACH: i32 = 15;
const STEP: usize = 3;
/// Contrast is relative to the range above the background, but at least to this.
const LEAST_RANGE: f32 = 0.3;

/// Whether strokes are darker than the background, like ink, or lighter, like chalk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Dark,
    Light,
}

/// A picture's background: a brightness range for each cell of a grid.
pub(super) struct Background {
    cell: u32,
    low: Grid,
    high: Grid,
}

/// How far pixels stand out in one direction, relative to the range the background leaves.
pub(super) struct Contrast {
    pub(super) plane: Plane,
    /// Standard deviation of the noise, in the same unit.
    pub(super) noise: f32,
}

impl Background {
    /// Estimates the background by the median over a wide window, which ignores strokes, after removing a linear slope
    /// of the light. A cell's range covers the medians around it, so nothing between light and shadow stands out at a
    /// shadow's edge.
    pub(super) fn of(plane: &Plane) -> Self {
        let cell = plane.width().max(plane.height()).div_ceil(CELLS);
        let medians = Grid::means(plane, cell).medians();
        Self { cell, low: medians.extremes(f32::min), high: medians.extremes(f32::max) }
    }

    pub(super) fn contrast(&self, plane: &Plane, tone: Tone) -> Contrast {
        let mut steps = Vec::new();
        let contrast = |x: u32, y: u32| {
            let cell = (y / self.cell) as usize * self.low.width + (x / self.cell) as usize;
            let value = plane.get_pixel(x, y).0[0];
            let (above, range) = match tone {
                Tone::Light => (value - self.high.values[cell], 1.0 - self.high.values[cell]),
                Tone::Dark => (self.low.values[cell] - value, self.low.values[cell]),
            };
            let range = range.max(LEAST_RANGE);
            if (x + 3 * y).is_multiple_of(7) && x > 0 {
                steps.push((value - plane.get_pixel(x - 1, y).0[0]).abs() / range);
            }
            Luma([(above / range).max(0.0)])
        };
        let plane = Plane::from_fn(plane.width(), plane.height(), contrast);
        // For normal noise, the median step between neighbours is 0.95 standard deviations.
        Contrast { plane, noise: 1.05 * median(&mut steps) }
    }
}

/// One number for each cell.
struct Grid {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Grid {
    fn means(plane: &Plane, cell: u32) -> Self {
        let [width, height] =
            [plane.width(), plane.height()].map(|side| side.div_ceil(cell) as usize);
        let mut sums = vec![(0.0, 0.0); width * height];
        for (x, y, pixel) in plane.enumerate_pixels() {
            let (sum, count) = &mut sums[(y / cell) as usize * width + (x / cell) as usize];
            *sum += pixel.0[0];
            *count += 1.0;
        }
        Self { width, height, values: sums.into_iter().map(|(sum, count)| sum / count).collect() }
    }

    /// The cells within this distance, with their column and row offsets from `at`.
    fn around(&self, at: usize, reach: i32, step: usize) -> impl Iterator<Item = (i32, i32, f32)> {
        let (width, height) = (self.width as i32, self.height as i32);
        let (x, y) = (at as i32 % width, at as i32 / width);
        let offsets = move |at: i32, end: i32| {
            let inside = move |by: &i32| (0..end).contains(&(at + by));
            (-reach..=reach).step_by(step).filter(inside)
        };
        offsets(y, height).flat_map(move |dy| {
            let row = &self.values[((y + dy) * width) as usize..];
            offsets(x, width).map(move |dx| (dx, dy, row[(x + dx) as usize]))
        })
    }

    fn medians(&self) -> Self {
        // The median step between neighbours is the light's slope: few steps cross edges.
        let slope = |step: usize, is_inside: &dyn Fn(usize) -> bool| {
            let pairs = self.values.iter().zip(&self.values[step..]).enumerate();
            let pairs = pairs.filter(|(at, _)| is_inside(*at));
            median(&mut pairs.map(|(_, (value, next))| next - value).collect::<Vec<_>>())
        };
        let across = slope(1, &|at| !(at + 1).is_multiple_of(self.width));
        let down = slope(self.width, &|_| true);
        self.map(|at| {
            let around = self.around(at, REACH, STEP);
            let level = around.map(|(dx, dy, value)| value - across * dx as f32 - down * dy as f32);
            median(&mut level.collect::<Vec<_>>())
        })
    }

    fn extremes(&self, extreme: fn(f32, f32) -> f32) -> Self {
        self.map(|at| self.around(at, 1, 1).map(|(_, _, value)| value).fold(f32::NAN, extreme))
    }

    fn map(&self, value: impl Fn(usize) -> f32) -> Self {
        Self { values: (0..self.values.len()).map(value).collect(), ..*self }
    }
}

/// The median; 0 without values.
fn median(values: &mut [f32]) -> f32 {
    match values.len() / 2 {
        0 => values.first().copied().unwrap_or(0.0),
        middle => *values.select_nth_unstable_by(middle, f32::total_cmp).1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vertical stroke of contrast 0.5 under this light.
    fn stroke(light: impl Fn(u32) -> f32) -> Plane {
        Plane::from_fn(200, 160, |x, y| {
            let is_ink = (70..80).contains(&x) && (30..130).contains(&y);
            Luma([light(x) * if is_ink { 0.5 } else { 1.0 }])
        })
    }

    #[test]
    fn contrast_is_the_same_in_any_light() {
        let lights: [fn(u32) -> f32; 3] =
            [|_| 0.9, |x| 0.5 + 0.002 * x as f32, |x| if x < 100 { 0.9 } else { 0.4 }];
        for light in lights {
            let plane = stroke(light);
            let background = Background::of(&plane);
            let dark = background.contrast(&plane, Tone::Dark).plane;
            for (x, y, pixel) in dark.enumerate_pixels() {
                let is_ink = (70..80).contains(&x) && (30..130).contains(&y);
                let expected = if is_ink { 0.46..0.54 } else { 0.0..0.05 };
                assert!(expected.contains(&pixel.0[0]), "{} at {x}, {y}", pixel.0[0]);
            }
            let light = background.contrast(&plane, Tone::Light).plane;
            assert!(light.iter().all(|&contrast| contrast < 0.05));
        }
    }

    #[test]
    fn noise_equals_its_standard_deviation() {
        let mut state = 1_u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        let mut normal = || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
        let plane = Plane::from_fn(200, 200, |_, _| Luma([0.5 + 0.02 * normal()]));
        let noise = Background::of(&plane).contrast(&plane, Tone::Dark).noise;
        assert!((noise - 0.04).abs() < 0.004, "{noise}");
    }
}
