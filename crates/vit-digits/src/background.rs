//! Separating strokes from their background.

use vit_pictures::Plane;

/// Cells of the background grid along the picture's longer side.
const CELLS: u32 = 40;
/// A cell's background is the median over every third cell within this distance; a digit covers less than half of them.
const REACH: usize = 15;
const STEP: usize = 3;
/// Contrast is relative to the range above the background, but at least to this.
const LEAST_RANGE: f32 = 0.3;
/// Smallest contrast of strokes, and in standard deviations of the noise.
const FAINTEST: f32 = 0.08;
const ABOVE_NOISE: f32 = 5.0;

/// Whether strokes are darker or lighter than the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Like ink.
    Dark,
    /// Like chalk.
    Light,
}

/// A picture's background: a brightness range for each cell of a grid.
pub(crate) struct Background {
    cell: usize,
    low: Grid,
    high: Grid,
}

/// How far pixels stand out in one direction, relative to the range the background leaves.
pub(crate) struct Contrast {
    pub(crate) plane: Plane,
    pub(crate) tone: Tone,
    /// Standard deviation of the noise, in the same unit.
    noise: f32,
}

impl Contrast {
    /// The smallest contrast of strokes.
    pub(crate) fn least(&self) -> f32 {
        FAINTEST.max(ABOVE_NOISE * self.noise)
    }

    /// Whether any pixel may belong to strokes.
    pub(crate) fn stands_out(&self) -> bool {
        let least = self.least();
        self.plane.iter().any(|&contrast| contrast > least)
    }
}

impl Background {
    /// Estimates the background by the median over a wide window, which ignores strokes, after removing a linear slope
    /// of the light. A cell's range covers the medians around it, so nothing between light and shadow stands out at a
    /// shadow's edge.
    pub(crate) fn of(plane: &Plane) -> Self {
        let longest = plane.width().max(plane.height());
        let cell = longest.div_ceil(CELLS) as usize;
        let means = Grid::means(plane, cell);
        let slope = means.slope();
        let usual = (slope == (0.0, 0.0)).then(|| Usual::of(&means));
        if let Some(value) = usual.as_ref().and_then(Usual::everywhere) {
            let [low, high] = [(); 2].map(|()| Grid { width: 1, height: 1, values: vec![value] });
            return Self { cell: longest as usize, low, high };
        }
        let medians = means.medians(slope, usual.as_ref());
        Self { cell, low: medians.extremes(f32::min), high: medians.extremes(f32::max) }
    }

    pub(crate) fn contrast(&self, plane: &Plane, tone: Tone) -> Contrast {
        let (sign, ends) = match tone {
            Tone::Light => (1.0, &self.high.values),
            Tone::Dark => (-1.0, &self.low.values),
        };
        let range = |end| if tone == Tone::Light { 1.0 - end } else { end };
        let ranges: Vec<(f32, f32)> =
            ends.iter().map(|&end| (end, range(end).max(LEAST_RANGE))).collect();
        let mut contrast = Vec::with_capacity(plane.len());
        let mut steps = Vec::new();
        for (y, row) in plane.chunks_exact(plane.width() as usize).enumerate() {
            let ranges = &ranges[y / self.cell * self.low.width..];
            for (pixels, (end, range)) in row.chunks(self.cell).zip(ranges) {
                let of = |value: &f32| (sign * (value - end) / range).max(0.0);
                contrast.extend(pixels.iter().map(of));
            }
            // A sample of the pixels, in other columns of each row.
            for x in (4 * y % 7..row.len()).step_by(7).filter(|&x| x > 0) {
                steps.push((row[x] - row[x - 1]).abs() / ranges[x / self.cell].1);
            }
        }
        let (width, height) = plane.dimensions();
        let plane = Plane::from_raw(width, height, contrast).expect("a number for each pixel");
        // For normal noise, the median step between neighbours is 0.95 standard deviations.
        Contrast { plane, tone, noise: 1.05 * median(&mut steps) }
    }
}

/// One number for each cell.
struct Grid {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Grid {
    fn means(plane: &Plane, cell: usize) -> Self {
        let [width, height] =
            [plane.width(), plane.height()].map(|side| (side as usize).div_ceil(cell));
        if cell == 1 {
            return Self { width, height, values: plane.as_raw().clone() };
        }
        let mut sums = vec![(0.0, 0.0); width * height];
        for (y, row) in plane.chunks_exact(plane.width() as usize).enumerate() {
            let sums = &mut sums[y / cell * width..];
            for (pixels, (sum, count)) in row.chunks(cell).zip(sums) {
                pixels.iter().for_each(|value| *sum += value);
                *count += pixels.len() as f32;
            }
        }
        Self { width, height, values: sums.into_iter().map(|(sum, count)| sum / count).collect() }
    }

    /// Calls `show` with every `step`th cell within this distance, and its column and row offsets.
    fn around(
        &self,
        (x, y): (usize, usize),
        reach: usize,
        step: usize,
        mut show: impl FnMut(f32, f32, f32),
    ) {
        let inside = |at: usize, end: usize| {
            let first = if at < reach { (step - (reach - at) % step) % step } else { at - reach };
            (first..=(at + reach).min(end - 1)).step_by(step)
        };
        for row in inside(y, self.height) {
            let cells = &self.values[row * self.width..][..self.width];
            for column in inside(x, self.width) {
                let (dx, dy) = (column as f32 - x as f32, row as f32 - y as f32);
                show(dx, dy, cells[column]);
            }
        }
    }

    /// How much the light increases from a cell to the next one, across and down: the median step, because few steps
    /// cross edges.
    fn slope(&self) -> (f32, f32) {
        let mut steps = Vec::with_capacity(self.values.len());
        for row in self.values.chunks_exact(self.width) {
            steps.extend(row.iter().zip(&row[1..]).map(|(value, next)| next - value));
        }
        let across = median_step(&mut steps);
        steps.clear();
        let rows = self.values.iter().zip(&self.values[self.width..]);
        steps.extend(rows.map(|(value, next)| next - value));
        (across, median_step(&mut steps))
    }

    fn medians(&self, (across, down): (f32, f32), usual: Option<&Usual>) -> Self {
        let mut level = Vec::new();
        self.map(|at| {
            if let Some(found) = usual.and_then(|usual| usual.median_around(at)) {
                return found;
            }
            level.clear();
            let push = |dx, dy, value| level.push(value - across * dx - down * dy);
            self.around(at, REACH, STEP, push);
            median(&mut level)
        })
    }

    fn extremes(&self, extreme: impl Fn(f32, f32) -> f32) -> Self {
        self.map(|at| {
            let mut most = f32::NAN;
            self.around(at, 1, 1, |_, _, value| most = extreme(most, value));
            most
        })
    }

    /// A grid of the values for each column and row.
    fn map(&self, mut value: impl FnMut((usize, usize)) -> f32) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for y in 0..self.height {
            values.extend((0..self.width).map(|x| value((x, y))));
        }
        Self { values, ..*self }
    }
}

/// The median of all cells. Most cells of a drawn picture have this value, and counting shows where it is also the
/// median around a cell, without sorting.
struct Usual {
    value: f32,
    /// Columns of the table at the ends of the window around each column, and rows around each row.
    columns: Vec<(usize, usize)>,
    rows: Vec<(usize, usize)>,
    /// Columns of the table.
    across: usize,
    /// Summed-area table for each cell: how many cells are [`LOWER`] and how many [`HIGHER`], of every `STEP`th column to
    /// its left and row above it, with `STEP` columns and rows of zeros in front.
    counts: Vec<u32>,
}

/// Units of two counts in one number.
const LOWER: u32 = 1;
const HIGHER: u32 = 1 << 16;

impl Usual {
    fn of(grid: &Grid) -> Self {
        let corner = grid.values[0];
        let is_corner = |value: &&f32| **value == corner;
        let value = match grid.values.iter().filter(is_corner).count() {
            count if 2 * count > grid.values.len() => corner,
            _ => median(&mut grid.values.clone()),
        };
        let across = grid.width + STEP;
        let mut counts = vec![0; across * (grid.height + STEP)];
        for (y, row) in grid.values.chunks_exact(grid.width).enumerate() {
            let (done, next) = counts.split_at_mut((y + STEP) * across);
            let (above, next) = (&done[y * across..][..across], &mut next[..across]);
            for (x, cell) in row.iter().enumerate() {
                let own = LOWER * u32::from(*cell < value) + HIGHER * u32::from(*cell > value);
                next[x + STEP] = own + next[x] + above[x + STEP] - above[x];
            }
        }
        // One step before the first cell, and the last cell.
        let ends = |end: usize| {
            let of = |at: usize| {
                let first = if at < REACH { at % STEP } else { at - REACH };
                let last = (at + REACH).min(end - 1);
                (first, last - (last - first) % STEP + STEP)
            };
            (0..end).map(of).collect()
        };
        Self { value, columns: ends(grid.width), rows: ends(grid.height), across, counts }
    }

    /// The usual value, if it is the median around every cell.
    fn everywhere(&self) -> Option<f32> {
        let is_median = |&rows| {
            let is_median = self.is_median(rows);
            self.columns.iter().all(|&columns| is_median(columns))
        };
        self.rows.iter().all(is_median).then_some(self.value)
    }

    /// The median of the cells of [`Grid::around`], if it is the usual value.
    fn median_around(&self, (x, y): (usize, usize)) -> Option<f32> {
        self.is_median(self.rows[y])(self.columns[x]).then_some(self.value)
    }

    /// Whether the usual value is the median of these rows' cells in some columns.
    fn is_median(&self, (top, bottom): (usize, usize)) -> impl Fn((usize, usize)) -> bool {
        let [above, all] =
            [top, bottom].map(|row| &self.counts[row * self.across..][..self.across]);
        let rows = (bottom - top) / STEP;
        move |(left, right)| {
            let inside = all[right] + above[left] - above[right] - all[left];
            let [lower, higher] = [inside % HIGHER, inside / HIGHER].map(|count| count as usize);
            let cells = (right - left) / STEP * rows;
            lower <= cells / 2 && cells - higher > cells / 2
        }
    }
}

const _: () =
    assert!(REACH.is_multiple_of(STEP), "a cell and those around it share columns and rows");

/// The median; fast if most are 0, as in most drawings.
fn median_step(steps: &mut [f32]) -> f32 {
    match steps.iter().filter(|&&step| step == 0.0).count() {
        zeros if 2 * zeros > steps.len() => 0.0,
        _ => median(steps),
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
    use image::Luma;

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
    fn counted_medians_equal_sorted_ones() {
        let mut state = 7_u32;
        for (width, height) in [(1, 1), (2, 40), (28, 28), (40, 31)] {
            for levels in [1, 2, 3, 9] {
                let cell = |_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((state >> 16) % levels * (state >> 24) % levels) as f32
                };
                let grid = Grid { width, height, values: (0..width * height).map(cell).collect() };
                let usual = Usual::of(&grid);
                let mut counted = 0;
                grid.map(|at| {
                    let mut around = Vec::new();
                    grid.around(at, REACH, STEP, |_, _, value| around.push(value));
                    let sorted = median(&mut around);
                    let found = usual.median_around(at);
                    assert_eq!(found.is_some(), sorted == usual.value, "{width}x{height} {at:?}");
                    counted += usize::from(found.is_some_and(|found| found == sorted));
                    sorted
                });
                assert!(counted > 0, "{width}x{height} of {levels}");
            }
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
