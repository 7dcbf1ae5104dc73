//! Foreground pixels: their connected parts, and lines among them.

use std::ops::RangeInclusive;

use vit_pictures::Plane;

/// A line covers at least this share of its length.
const SPAN: f32 = 0.95;
/// Largest bend of a line, as a share of its length, and largest slope, in steps of `SLOPE`.
const BENT: f32 = 0.008;
const SLOPE: f32 = 0.02;
const SLOPES: [f32; 7] = [0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0];
/// Largest distance of a box's sides from its bounds: its length divided by this.
const MARGIN: usize = 10;

/// The foreground pixels.
#[derive(Clone)]
pub(crate) struct Mask {
    pub(crate) width: usize,
    height: usize,
    set: Vec<bool>,
}

/// Connected pixels, diagonally too.
pub(crate) struct Part {
    pub(crate) pixels: Vec<usize>,
    pub(crate) bounds: Bounds,
    /// Sum of their values.
    pub(crate) amount: f32,
}

/// A rectangle of pixels, ends included.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

/// A nearly horizontal line: its middle row, with the rows it may bend to.
struct Line {
    rows: RangeInclusive<usize>,
    slope: f32,
}

impl Mask {
    pub(crate) fn above(plane: &Plane, least: f32) -> Self {
        let set = plane.iter().map(|&value| value > least).collect();
        Self { width: plane.width() as usize, height: plane.height() as usize, set }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { left: 0, top: 0, right: self.width - 1, bottom: self.height - 1 }
    }

    /// The connected parts, with the sum of the plane's values in each.
    pub(crate) fn parts(&self, plane: &Plane) -> Vec<Part> {
        let mut left = self.set.clone();
        let mut parts = Vec::new();
        for start in 0..left.len() {
            if !std::mem::take(&mut left[start]) {
                continue;
            }
            let mut bounds = Bounds::of(start, self.width);
            let (mut pixels, mut next, mut amount) = (vec![start], 0, 0.0);
            while let Some(&at) = pixels.get(next) {
                next += 1;
                amount += plane.as_raw()[at];
                let (x, y) = (at % self.width, at / self.width);
                bounds = bounds.and(Bounds::of(at, self.width));
                for y in y.saturating_sub(1)..=(y + 1).min(self.height - 1) {
                    for x in x.saturating_sub(1)..=(x + 1).min(self.width - 1) {
                        if std::mem::take(&mut left[y * self.width + x]) {
                            pixels.push(y * self.width + x);
                        }
                    }
                }
            }
            parts.push(Part { pixels, bounds, amount });
        }
        parts
    }

    /// Removes lines and bars that run from border to border, except where strokes cross them.
    pub(crate) fn remove_rules(&mut self) {
        self.remove_lines(Self::is_rule);
    }

    fn remove_lines(&mut self, is_removed: fn(&Self, &Line) -> bool) {
        let lines = |mask: &Self| {
            let lines = mask.lines().into_iter();
            lines.filter(|line| is_removed(mask, line)).collect::<Vec<_>>()
        };
        self.remove(&lines(self));
        let mut turned = self.transposed();
        turned.remove(&lines(&turned));
        *self = turned.transposed();
    }

    /// Whether a line reaches both borders, and lies on a border either completely or not at all: the bar of a tightly
    /// cropped seven does not.
    fn is_rule(&self, line: &Line) -> bool {
        let reaches = |x: usize| {
            let shift = self.shift(line.slope, x);
            let rows = line.rows.clone().filter_map(|y| y.checked_add_signed(shift));
            rows.filter(|&y| y < self.height).any(|y| self.set[y * self.width + x])
        };
        let is_clear = |y: usize| {
            let row = &self.set[y * self.width..][..self.width];
            let share = row.iter().filter(|&&set| set).count() as f32 / self.width as f32;
            !line.rows.contains(&y) || !(1.0 - SPAN..SPAN).contains(&share)
        };
        reaches(0) && reaches(self.width - 1) && is_clear(0) && is_clear(self.height - 1)
    }

    /// Removes the sides of a box with these bounds, if it contains something.
    pub(crate) fn remove_box(&mut self, bounds: Bounds) {
        let mut inner = self.cropped(bounds);
        let is_framed = |mask: &Self| {
            let (lines, margin) = (mask.lines(), mask.height / MARGIN);
            lines.iter().any(|line| *line.rows.start() <= margin)
                && lines.iter().any(|line| line.rows.end() + margin + 1 >= mask.height)
        };
        if !(is_framed(&inner) && is_framed(&inner.transposed())) {
            return;
        }
        inner.remove_lines(|_, _| true);
        let (across, down) = (inner.width / MARGIN, inner.height / MARGIN);
        let content = inner.set.iter().enumerate().filter(|(_, set)| **set);
        let content = content.map(|(at, _)| Bounds::of(at, inner.width)).filter(|pixel| {
            (across..inner.width - across).contains(&pixel.left)
                && (down..inner.height - down).contains(&pixel.top)
        });
        if content.reduce(Bounds::and).is_some_and(|content| 4 * content.height() > inner.height) {
            for (y, row) in inner.set.chunks(inner.width).enumerate() {
                let at = (bounds.top + y) * self.width + bounds.left;
                self.set[at..][..row.len()].copy_from_slice(row);
            }
        }
    }

    fn cropped(&self, Bounds { left, top, right, bottom }: Bounds) -> Self {
        let rows = self.set.chunks(self.width).take(bottom + 1).skip(top);
        let set = rows.flat_map(|row| &row[left..=right]).copied().collect();
        Self { width: right - left + 1, height: bottom - top + 1, set }
    }

    fn transposed(&self) -> Self {
        let column = |x| self.set.iter().skip(x).step_by(self.width).copied();
        let set = (0..self.width).flat_map(column).collect();
        Self { width: self.height, height: self.width, set }
    }

    /// The nearly horizontal lines from the left to the right end.
    fn lines(&self) -> Vec<Line> {
        let least = (SPAN * self.width as f32).ceil() as usize;
        let mut columns = vec![false; self.width];
        for row in self.set.chunks(self.width) {
            columns.iter_mut().zip(row).for_each(|(any, set)| *any |= set);
        }
        if columns.iter().filter(|&&any| any).count() < least {
            return Vec::new();
        }
        // Whether a pixel within reach above or below is set.
        let mut near = vec![false; self.set.len()];
        for (y, near) in near.chunks_mut(self.width).enumerate() {
            for y in self.rows_around(y) {
                let row = &self.set[y * self.width..][..self.width];
                near.iter_mut().zip(row).for_each(|(any, set)| *any |= set);
            }
        }
        let mut lines: Vec<Line> = Vec::new();
        for slope in SLOPES.map(|steps| SLOPE * steps) {
            let shifts: Vec<isize> = (0..self.width).map(|x| self.shift(slope, x)).collect();
            for y in 0..self.height {
                let (mut covered, mut x) = (0, 0);
                for columns in shifts.chunk_by(PartialEq::eq) {
                    let y = y.checked_add_signed(columns[0]).filter(|&y| y < self.height);
                    let row = y.map(|y| &near[y * self.width + x..][..columns.len()]);
                    covered += row.map_or(0, |row| row.iter().filter(|&&set| set).count());
                    x += columns.len();
                }
                if covered < least {
                    continue;
                }
                let is_next = |line: &&mut Line| line.slope == slope && line.rows.end() + 1 == y;
                match lines.last_mut().filter(is_next) {
                    Some(line) => line.rows = *line.rows.start()..=y,
                    None => lines.push(Line { rows: y..=y, slope }),
                }
            }
        }
        lines
    }

    /// Vertical offset of a line at this column.
    fn shift(&self, slope: f32, x: usize) -> isize {
        (slope * (x as f32 - 0.5 * self.width as f32)).round() as isize
    }

    /// The rows a line may bend to.
    fn rows_around(&self, y: usize) -> RangeInclusive<usize> {
        let reach = (BENT * self.width as f32).ceil() as usize;
        y.saturating_sub(reach)..=(y + reach).min(self.height - 1)
    }

    /// Removes each line's vertical runs of pixels, unless they are much longer than most, where strokes cross.
    fn remove(&mut self, lines: &[Line]) {
        for line in lines {
            let mut runs: Vec<(usize, RangeInclusive<usize>)> = Vec::new();
            for x in 0..self.width {
                let is_set = |y: &usize| self.set[y * self.width + x];
                let shift = self.shift(line.slope, x);
                let [mut y, end] = [line.rows.start(), line.rows.end()]
                    .map(|y| y.saturating_add_signed(shift).min(self.height - 1));
                while let Some(found) = (y..=end).find(is_set) {
                    let top = (0..=found).rev().take_while(is_set).last().unwrap_or(found);
                    let bottom = (found..self.height).take_while(is_set).last().unwrap_or(found);
                    runs.push((x, top..=bottom));
                    y = bottom + 1;
                }
            }
            // Fewer are the rest of another line.
            if runs.len() <= self.width / 2 {
                continue;
            }
            let length = |(_, rows): &(usize, RangeInclusive<usize>)| rows.end() - rows.start() + 1;
            let mut lengths: Vec<usize> = runs.iter().map(length).collect();
            let middle = lengths.len() / 2;
            let usual = *lengths.select_nth_unstable(middle).1;
            for (x, rows) in runs.into_iter().filter(|run| length(run) <= usual + usual / 2 + 1) {
                rows.for_each(|y| self.set[y * self.width + x] = false);
            }
        }
    }
}

impl Bounds {
    /// A single pixel's bounds, in rows of this width.
    fn of(at: usize, width: usize) -> Self {
        let (x, y) = (at % width, at / width);
        Self { left: x, top: y, right: x, bottom: y }
    }

    fn width(self) -> usize {
        self.right - self.left + 1
    }

    fn height(self) -> usize {
        self.bottom - self.top + 1
    }

    pub(crate) fn longer_side(self) -> usize {
        self.width().max(self.height())
    }

    pub(crate) fn shorter_side(self) -> usize {
        self.width().min(self.height())
    }

    /// The smallest rectangle that contains both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    pub(crate) fn is_within(self, distance: usize, other: Self) -> bool {
        self.left <= other.right + distance
            && other.left <= self.right + distance
            && self.top <= other.bottom + distance
            && other.top <= self.bottom + distance
    }

    pub(crate) fn touches_border_of(self, whole: Self) -> bool {
        self.left == whole.left
            || self.top == whole.top
            || self.right == whole.right
            || self.bottom == whole.bottom
    }
}
