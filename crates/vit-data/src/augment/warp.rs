//! Shift, rotation, scale, shear and elastic displacement, as one bilinear resampling.

use std::ops::Range;

use vit_random::Stream;

use super::{Augment, Source};

/// Maps target pixels to source positions: `source - c = A (target - c) + b`, where `c` is the image's centre.
pub(super) struct Affine {
    /// `A`, row by row, of (x, y).
    matrix: [f32; 4],
    /// `b` as (x, y).
    offset: [f32; 2],
}

impl Affine {
    /// Draws the inverse of shear, then scale, then rotation, then shift, each within its maximum.
    pub(super) fn drawn(augment: &Augment, stream: &mut Stream) -> Self {
        let mut within = |most: f64| stream.uniform_in(-most, most);
        let [right, down] = [within(augment.shift), within(augment.shift)];
        let angle = within(augment.rotation).to_radians();
        let scale = within((1.0 + augment.scale).ln()).exp();
        let lean = within(augment.shear).to_radians().tan();
        let (sin, cos) = angle.sin_cos();
        // (1 -lean; 0 1) (cos sin; -sin cos) / scale
        let matrix = [cos + lean * sin, sin - lean * cos, -sin, cos].map(|entry| entry / scale);
        let [a, b, c, d] = matrix;
        let offset = [-(a * right + b * down), -(c * right + d * down)];
        Self { matrix: matrix.map(|x| x as f32), offset: offset.map(|x| x as f32) }
    }
}

/// Nodes of the elastic grid along each side.
const NODES: usize = 5;

/// Displacements (x, y) of the nodes of a grid over the image.
pub(super) struct Elastic {
    nodes: [[[f32; 2]; NODES]; NODES],
}

impl Elastic {
    pub(super) fn drawn(most: f64, stream: &mut Stream) -> Self {
        let mut numbers = [0.0; 2 * NODES * NODES];
        stream.fill_uniform_in(-most, most, &mut numbers);
        let mut nodes = [[[0.0; 2]; NODES]; NODES];
        for (value, number) in nodes.as_flattened_mut().as_flattened_mut().iter_mut().zip(numbers) {
            *value = number as f32;
        }
        Self { nodes }
    }

    /// The displacements along a row at `share` of the image's height.
    fn row(&self, share: f32) -> Bend {
        let (node, part) = node_at(share);
        let nodes: [_; NODES] = std::array::from_fn(|column| {
            let [above, below] = [self.nodes[node][column], self.nodes[node + 1][column]];
            between(above, difference(above, below), part)
        });
        let steps = std::array::from_fn(|column| difference(nodes[column], nodes[column + 1]));
        let most =
            |side: usize| nodes.iter().fold(0.0, |most: f32, node| most.max(node[side].abs()));
        // Interpolation may round to slightly more than either node.
        Bend { nodes, steps, reach: [most(0), most(1)].map(|most| 1.001 * most) }
    }
}

/// Displacements along one row.
struct Bend {
    /// At the nodes' columns, and the difference to the next node.
    nodes: [[f32; 2]; NODES],
    steps: [[f32; 2]; NODES - 1],
    /// Upper bound of the displacement, either way.
    reach: [f32; 2],
}

impl Bend {
    /// Adds the displacements at these grid positions.
    #[inline(always)]
    fn add(&self, places: &[(usize, f32); LANES], xs: &mut [f32; LANES], ys: &mut [f32; LANES]) {
        for (lane, &(node, part)) in places.iter().enumerate() {
            let [dx, dy] = between(self.nodes[node], self.steps[node], part);
            xs[lane] += dx;
            ys[lane] += dy;
        }
    }
}

/// The node before `share` of a side, and the fraction towards the next.
fn node_at(share: f32) -> (usize, f32) {
    let at = share * (NODES - 1) as f32;
    let node = (at as usize).min(NODES - 2);
    (node, at - node as f32)
}

fn difference(from: [f32; 2], to: [f32; 2]) -> [f32; 2] {
    [to[0] - from[0], to[1] - from[1]]
}

fn between(from: [f32; 2], step: [f32; 2], part: f32) -> [f32; 2] {
    [from[0] + part * step[0], from[1] + part * step[1]]
}

/// Buffers for an image with a black border, so that no read leaves the image.
pub(super) struct Canvas {
    height: usize,
    width: usize,
    pixels: Vec<f32>,
    ink: Option<Ink>,
    /// For each column, its distance from the middle and its place in the elastic grid; padded to [`LANES`] with the
    /// last one.
    from_middle: Vec<f32>,
    in_grid: Vec<(usize, f32)>,
}

/// Width of the black border before the first row and column; the border after the last is twice as wide.
const BORDER: usize = 1;

/// Pixels computed together.
const LANES: usize = 8;

impl Canvas {
    pub(super) fn new((height, width): (usize, usize)) -> Self {
        let pixels = vec![0.0; (height + 3 * BORDER) * (width + 3 * BORDER)];
        assert!(u32::try_from(pixels.len()).is_ok(), "expected an image of fewer than 2^32 pixels");
        let columns = || (0..width.max(LANES)).map(|x| x.min(width - 1));
        Self {
            height,
            width,
            pixels,
            ink: None,
            from_middle: columns().map(|x| x as f32 - middle(width)).collect(),
            in_grid: columns().map(|x| node_at(share(x, width))).collect(),
        }
    }

    pub(super) const fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Loads an image through the table `values`. Byte 0 is black.
    pub(super) fn fill(&mut self, source: Source<'_>, values: &[f32; 256]) {
        self.pixels.fill(values[0]);
        self.ink = Ink::of(&source.ink(), self.width);
        let Some(ink) = &self.ink else { return };
        let stride = self.width + 3 * BORDER;
        for y in ink.rows.clone() {
            let Range { start, end } = ink.columns;
            let row = &mut self.pixels[(y + BORDER) * stride..][BORDER..];
            let pixels = y * self.width + start..y * self.width + end;
            source.write(pixels, values, &mut row[start..end]);
        }
    }

    /// Draws the resampled image into `out`, which must be black.
    pub(super) fn warp(&self, affine: &Affine, elastic: Option<&Elastic>, out: &mut [f32]) {
        let Some(ink) = &self.ink else { return };
        let [a, b, c, d] = affine.matrix;
        let [right, down] = affine.offset;
        for (y, row) in out.chunks_exact_mut(self.width).enumerate() {
            let from_middle = y as f32 - middle(self.height);
            let line = Line {
                slope: [a, c],
                start: [
                    b * from_middle + right + middle(self.width),
                    d * from_middle + down + middle(self.height),
                ],
            };
            let bend = elastic.map(|elastic| elastic.row(share(y, self.height)));
            let reach = bend.as_ref().map_or([0.0; 2], |bend| bend.reach);
            let inked = line.inked(&self.from_middle[..self.width], ink, reach);
            self.draw(&line, bend.as_ref(), inked, row);
        }
    }

    /// Computes these columns of a row, rounded up to whole lanes.
    #[inline(always)]
    fn draw(&self, line: &Line, bend: Option<&Bend>, columns: Range<usize>, row: &mut [f32]) {
        for first in columns.step_by(LANES) {
            let first = first.min(self.width.saturating_sub(LANES));
            let [mut xs, mut ys] = line.places(lanes(&self.from_middle, first));
            if let Some(bend) = bend {
                bend.add(lanes(&self.in_grid, first), &mut xs, &mut ys);
            }
            let values = self.values(xs, ys);
            match row[first..].first_chunk_mut() {
                Some(row) => *row = values,
                None => row.copy_from_slice(&values[..self.width]),
            }
        }
    }

    /// Bilinear values at these positions; black beyond the image.
    #[inline(always)]
    fn values(&self, xs: [f32; LANES], ys: [f32; LANES]) -> [f32; LANES] {
        let (columns, rights) = pixels_before(xs, self.width);
        let (rows, downs) = pixels_before(ys, self.height);
        let stride = self.width + 3 * BORDER;
        // Kept in 32 bits, like the lanes, so that this vectorises too.
        let places: [u32; LANES] =
            std::array::from_fn(|lane| rows[lane] * stride as u32 + columns[lane]);
        let mut four = [[0.0; LANES]; 4];
        for (lane, place) in places.into_iter().enumerate() {
            let pixels = &self.pixels[place as usize..][..stride + 2];
            four[0][lane] = pixels[0];
            four[1][lane] = pixels[1];
            four[2][lane] = pixels[stride];
            four[3][lane] = pixels[stride + 1];
        }
        std::array::from_fn(|lane| {
            let right = rights[lane];
            let above = four[0][lane] + right * (four[1][lane] - four[0][lane]);
            let below = four[2][lane] + right * (four[3][lane] - four[2][lane]);
            above + downs[lane] * (below - above)
        })
    }
}

fn lanes<T>(all: &[T], first: usize) -> &[T; LANES] {
    all[first..].first_chunk().expect("as many as lanes at least")
}

/// For each position along a side, the pixel before it (counted with the border) and the fraction towards the next.
#[inline(always)]
fn pixels_before(places: [f32; LANES], len: usize) -> ([u32; LANES], [f32; LANES]) {
    let last = (len + BORDER) as f32;
    let places = places.map(|place| {
        let place = place + BORDER as f32;
        // Maps NaN to 0 too.
        let place = if place > 0.0 { place } else { 0.0 };
        if place < last { place } else { last }
    });
    // Adding 2^23 rounds a smaller number to an integer, which is then in the low bits. A conversion is several times
    // slower without the newest instructions.
    const WHOLE: f32 = (1 << 23) as f32;
    let sums = places.map(|place| place + WHOLE);
    let exceeds: [bool; LANES] = std::array::from_fn(|lane| sums[lane] - WHOLE > places[lane]);
    let pixels = std::array::from_fn(|lane| {
        sums[lane].to_bits() - WHOLE.to_bits() - u32::from(exceeds[lane])
    });
    let parts = std::array::from_fn(|lane| {
        places[lane] - ((sums[lane] - WHOLE) - if exceeds[lane] { 1.0 } else { 0.0 })
    });
    (pixels, parts)
}

/// Source positions (x, y) along one row, before elastic displacement.
struct Line {
    /// From one pixel to the next.
    slope: [f32; 2],
    /// At the middle of the row.
    start: [f32; 2],
}

impl Line {
    #[inline(always)]
    fn place(&self, side: usize, from_middle: f32) -> f32 {
        self.slope[side] * from_middle + self.start[side]
    }

    #[inline(always)]
    fn places(&self, from_middle: &[f32; LANES]) -> [[f32; LANES]; 2] {
        let places = |side| from_middle.map(|from_middle| self.place(side, from_middle));
        [places(0), places(1)]
    }

    /// The columns that can reach ink when displaced by `reach`; outside them all is black. `columns` are distances
    /// from the middle.
    fn inked(&self, columns: &[f32], ink: &Ink, reach: [f32; 2]) -> Range<usize> {
        let (first, last) = self.crossing(ink, reach);
        // Distance from the first column, widened by a pixel against rounding; NaN becomes 0.
        let column = |from_middle: f32, more: f32| (from_middle - columns[0] + more) as usize;
        let begin = column(first, -1.0).min(columns.len());
        let end = column(last, 2.0).clamp(begin, columns.len());
        // Rounding keeps the order of positions: if both ends miss the ink on the same side, so does everything
        // between.
        let misses = |part: &[f32]| match part {
            [] => true,
            [first, .., last] => self.misses([*first, *last], ink, reach),
            [only] => self.misses([*only; 2], ink, reach),
        };
        let begin = if misses(&columns[..begin]) { begin } else { 0 };
        let end = if misses(&columns[end..]) { end } else { columns.len() };
        begin..end
    }

    /// Roughly where, from the middle, the line enters and leaves the reach of the ink.
    fn crossing(&self, ink: &Ink, reach: [f32; 2]) -> (f32, f32) {
        (0..2).fold((f32::NEG_INFINITY, f32::INFINITY), |(first, last), side| {
            let at = |place: f32| (place - self.start[side]) / self.slope[side];
            let (a, b) = (at(ink.before[side] - reach[side]), at(ink.after[side] + reach[side]));
            (first.max(a.min(b)), last.min(a.max(b)))
        })
    }

    /// Whether every pixel between these two columns reads black only. May be a false negative.
    fn misses(&self, ends: [f32; 2], ink: &Ink, reach: [f32; 2]) -> bool {
        (0..2).any(|side| {
            let places = ends.map(|end| self.place(side, end));
            places.iter().all(|place| place + reach[side] < ink.before[side])
                || places.iter().all(|place| place - reach[side] >= ink.after[side])
        })
    }
}

/// Bounding box of the pixels that are not black.
#[derive(Debug, PartialEq)]
struct Ink {
    rows: Range<usize>,
    columns: Range<usize>,
    /// The last column and row before the ink, and the first after it.
    before: [f32; 2],
    after: [f32; 2],
}

impl Ink {
    fn of(image: &[u8], width: usize) -> Option<Self> {
        let inked = |&byte: &u8| byte != 0;
        let top = image.iter().position(inked)? / width;
        let bottom = image.iter().rposition(inked)? / width;
        let mut columns = vec![0; width];
        for row in image[top * width..(bottom + 1) * width].chunks_exact(width) {
            columns.iter_mut().zip(row).for_each(|(column, byte)| *column |= byte);
        }
        let left = columns.iter().position(inked)?;
        let right = columns.iter().rposition(inked)?;
        Some(Self {
            rows: top..bottom + 1,
            columns: left..right + 1,
            before: [left, top].map(|first| first as f32 - 1.0),
            after: [right, bottom].map(|last| last as f32 + 1.0),
        })
    }
}

/// The middle of a side of `len` pixels.
fn middle(len: usize) -> f32 {
    (len as f32 - 1.0) / 2.0
}

/// Relative position of a pixel along a side.
fn share(at: usize, len: usize) -> f32 {
    at as f32 / (len.max(2) - 1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use vit_random::{Random, Site};

    const SIZE: (usize, usize) = (5, 7);

    /// One less than the byte, so black is -1.
    fn values() -> [f32; 256] {
        std::array::from_fn(|byte| byte as f32 - 1.0)
    }

    /// Pixel (y, x) has the value `10 y + x`.
    fn warped(affine: &Affine, elastic: Option<&Elastic>) -> Vec<f32> {
        let image: Vec<u8> = (0..35).map(|at| 10 * (at / 7) + at % 7 + 1).collect();
        let (mut canvas, mut out) = (Canvas::new(SIZE), vec![-1.0; 35]);
        canvas.fill(Source::of(&image), &values());
        canvas.warp(affine, elastic, &mut out);
        out
    }

    fn affine(matrix: [f32; 4], offset: [f32; 2]) -> Affine {
        Affine { matrix, offset }
    }

    const IDENTITY: [f32; 4] = [1.0, 0.0, 0.0, 1.0];

    #[test]
    fn an_integer_shift_moves_pixels_and_half_a_pixel_averages_them() {
        let at = |image: &[f32], y: usize, x: usize| image[7 * y + x];
        let shifted = warped(&affine(IDENTITY, [1.0, 2.0]), None);
        assert_eq!((at(&shifted, 0, 0), at(&shifted, 2, 5)), (21.0, 46.0));
        assert_eq!((at(&shifted, 0, 6), at(&shifted, 3, 0)), (-1.0, -1.0));
        let mixed = warped(&affine(IDENTITY, [0.5, 0.0]), None);
        assert_eq!((at(&mixed, 1, 2), at(&mixed, 0, 6)), (12.5, 2.5));
        let far = warped(&affine(IDENTITY, [1e9, f32::NEG_INFINITY]), None);
        assert!(far.iter().all(|&value| value == -1.0));
    }

    #[test]
    fn rotation_by_180_degrees_reverses_the_image() {
        let turned = warped(&affine([-1.0, 0.0, 0.0, -1.0], [0.0; 2]), None);
        let mut image = warped(&affine(IDENTITY, [0.0; 2]), None);
        image.reverse();
        assert_eq!(turned, image);
    }

    /// Reference: a single pixel, computed by itself.
    fn value(image: &[f32], (height, width): (usize, usize), [x, y]: [f32; 2]) -> f32 {
        let within = |at: f32, len: usize| (at + 1.0).clamp(0.0, len as f32 + 1.0);
        let (x, y) = (within(x, width), within(y, height));
        let (column, row) = (x as usize, y as usize);
        let pixel = |row: usize, column: usize| {
            let inside = (1..=height).contains(&row) && (1..=width).contains(&column);
            if inside { image[(row - 1) * width + column - 1] } else { -1.0 }
        };
        let (right, down) = (x - column as f32, y - row as f32);
        let between = |a: f32, b: f32, part: f32| a + part * (b - a);
        let above = between(pixel(row, column), pixel(row, column + 1), right);
        let below = between(pixel(row + 1, column), pixel(row + 1, column + 1), right);
        between(above, below, down)
    }

    /// Reference: the displacement of a single pixel.
    fn displacement(elastic: &Elastic, (height, width): (usize, usize), at: usize) -> [f32; 2] {
        let (row, down) = node_at(share(at / width, height));
        let (column, right) = node_at(share(at % width, width));
        let mixed = |a: f32, b: f32, part: f32| a + part * (b - a);
        [0, 1].map(|side| {
            let node = |row: usize, column: usize| elastic.nodes[row][column][side];
            let at_column = |column| mixed(node(row, column), node(row + 1, column), down);
            mixed(at_column(column), at_column(column + 1), right)
        })
    }

    /// Compares the vectorised code, which skips black regions, with the reference.
    #[test]
    fn vectorised_pixels_equal_the_reference_bit_for_bit() {
        let values = std::array::from_fn(|byte| byte as f32 / 100.0 - 1.0);
        for size @ (height, width) in [(1, 1), (5, 7), (28, 28), (19, 33)] {
            let mut bytes = vec![0; height * width];
            let mut canvas = Canvas::new(size);
            for sample in 0..120 {
                let mut stream = Random::new(3).stream(Site::named("test"), sample);
                let strength = [0.3, 2.5][sample as usize % 2];
                let mut within = |most: f64| stream.uniform_in(-most, most) as f32;
                let [a, d] = [(); 2].map(|()| 1.0 + within(strength));
                let [b, c, right, down] = [(); 4].map(|()| within(strength));
                let elastic = (sample % 3 > 0).then(|| Elastic::drawn(2.0, &mut stream));
                // The first sample has no ink, the later ones more and more.
                if sample > 0 {
                    let at = stream.below((height * width) as u32) as usize;
                    bytes[at] = stream.below(256) as u8;
                }
                let image: Vec<f32> = bytes.iter().map(|&byte| values[usize::from(byte)]).collect();
                canvas.fill(Source::of(&bytes), &values);
                let mut out = vec![values[0]; height * width];
                canvas.warp(&affine([a, b, c, d], [right, down]), elastic.as_ref(), &mut out);
                for (at, got) in out.iter().enumerate() {
                    let x = (at % width) as f32 - middle(width);
                    let y = (at / width) as f32 - middle(height);
                    let mut from = [
                        a * x + (b * y + right + middle(width)),
                        c * x + (d * y + down + middle(height)),
                    ];
                    if let Some(elastic) = &elastic {
                        let [dx, dy] = displacement(elastic, size, at);
                        from = [from[0] + dx, from[1] + dy];
                    }
                    assert_eq!(got.to_bits(), value(&image, size, from).to_bits());
                }
            }
        }
    }

    #[test]
    fn bounding_box_contains_the_ink() {
        let mut image = vec![0; 35];
        assert_eq!(Ink::of(&image, 7), None);
        image[7 + 2] = 1;
        image[3 * 7 + 6] = 255;
        let ink = Ink::of(&image, 7).expect("ink");
        assert_eq!((ink.before, ink.after), ([1.0, 0.0], [7.0, 4.0]));
        assert_eq!((ink.rows, ink.columns), (1..4, 2..7));
    }

    /// A line of slope 1 that crosses columns 2..7 of the ink, with rows that the line never reaches.
    #[test]
    fn columns_that_miss_the_ink_are_skipped() {
        let ink = Ink { rows: 1..4, columns: 2..7, before: [1.0, 0.0], after: [7.0, 4.0] };
        let columns: Vec<f32> = (0..20).map(|x| x as f32).collect();
        let inked = |y: f32, reach: [f32; 2]| {
            Line { slope: [1.0, 0.0], start: [0.0, y] }.inked(&columns, &ink, reach)
        };
        let near = |range: Range<usize>| range.start <= 1 && (7..=9).contains(&range.end);
        assert!(near(inked(2.0, [0.0; 2])));
        assert!(inked(5.0, [0.0; 2]).is_empty());
        assert!(near(inked(5.0, [0.0, 1.5])));
        assert!(inked(2.0, [5.0, 0.0]).end >= 12);
        assert_eq!(inked(f32::NAN, [0.0; 2]).end, 9);
    }

    #[test]
    fn equal_displacements_are_a_shift() {
        let elastic = Elastic { nodes: [[[1.0, -1.0]; NODES]; NODES] };
        let shift = affine(IDENTITY, [1.0, -1.0]);
        assert_eq!(warped(&affine(IDENTITY, [0.0; 2]), Some(&elastic)), warped(&shift, None));
    }

    /// Mapping points forward, then back, is the identity.
    #[test]
    fn the_drawn_map_inverts_shear_scale_rotation_and_shift() {
        let augment =
            Augment { shift: 3.0, rotation: 40.0, scale: 0.5, shear: 20.0, ..Augment::default() };
        for sample in 0..20 {
            let stream = || Random::new(1).stream(Site::named("test"), sample);
            let drawn = Affine::drawn(&augment, &mut stream());
            let mut stream = stream();
            let mut within = |most: f64| stream.uniform_in(-most, most);
            let shift = [within(3.0), within(3.0)];
            let (sin, cos) = within(40.0).to_radians().sin_cos();
            let scale = within(1.5_f64.ln()).exp();
            let lean = within(20.0).to_radians().tan();
            for (x, y) in [(1.0, 0.0), (0.0, 1.0), (-2.0, 3.0)] {
                let sheared = (x + lean * y, y);
                let turned = (cos * sheared.0 - sin * sheared.1, sin * sheared.0 + cos * sheared.1);
                let target = [scale * turned.0 + shift[0], scale * turned.1 + shift[1]];
                let [a, b, c, d] = drawn.matrix.map(f64::from);
                let [right, down] = drawn.offset.map(f64::from);
                let back =
                    [a * target[0] + b * target[1] + right, c * target[0] + d * target[1] + down];
                assert!((back[0] - x).abs() < 1e-5 && (back[1] - y).abs() < 1e-5, "{back:?}");
            }
        }
    }
}
