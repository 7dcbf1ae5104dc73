//! Shift, rotation, scale, shear and elastic displacement, as one bilinear resampling.

use vit_random::Stream;

use super::Augment;

/// Where a pixel comes from: `source - c = A (target - c) + b`, `c` being the image's centre.
pub(super) struct Affine {
    /// `A`, row by row, of (x, y).
    matrix: [f32; 4],
    /// `b` as (x, y).
    offset: [f32; 2],
}

impl Affine {
    /// The inverse of a shear, then a scale, then a rotation, then a shift, each within its strength.
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

/// How far the nodes of a grid over the image are displaced, as (x, y).
pub(super) struct Elastic {
    nodes: [[[f32; 2]; NODES]; NODES],
}

impl Elastic {
    pub(super) fn drawn(most: f64, stream: &mut Stream) -> Self {
        let mut nodes = [[[0.0; 2]; NODES]; NODES];
        for value in nodes.as_flattened_mut().as_flattened_mut() {
            *value = stream.uniform_in(-most, most) as f32;
        }
        Self { nodes }
    }

    /// The displacements of a row that lies at `share` of the image's height, at each column of nodes.
    fn row(&self, share: f32) -> [[f32; 2]; NODES] {
        let (node, part) = node_at(share);
        std::array::from_fn(|column| {
            mixed(self.nodes[node][column], self.nodes[node + 1][column], part)
        })
    }
}

/// The node before `share` of the way along a side, and the part of the way to the next.
fn node_at(share: f32) -> (usize, f32) {
    let at = share * (NODES - 1) as f32;
    let node = (at as usize).min(NODES - 2);
    (node, at - node as f32)
}

fn mixed(a: [f32; 2], b: [f32; 2], part: f32) -> [f32; 2] {
    [a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])]
}

/// Room for an image with a black border, so that no pixel asks for what is not there.
pub(super) struct Canvas {
    height: usize,
    width: usize,
    pixels: Vec<f32>,
    black: f32,
    ink: Ink,
    /// For each column, how far from the middle it lies and its place in the elastic grid; then, up to whole groups of
    /// [`LANES`], the last column's.
    from_middle: Vec<f32>,
    in_grid: Vec<(usize, f32)>,
}

/// Black pixels before the first row and column, and twice as many after the last.
const BORDER: usize = 1;

/// Pixels that are computed side by side.
const LANES: usize = 8;

impl Canvas {
    pub(super) fn new((height, width): (usize, usize)) -> Self {
        let pixels = vec![0.0; (height + 3 * BORDER) * (width + 3 * BORDER)];
        let columns = || (0..width.next_multiple_of(LANES)).map(|x| x.min(width - 1));
        Self {
            height,
            width,
            pixels,
            black: 0.0,
            ink: Ink::NONE,
            from_middle: columns().map(|x| x as f32 - middle(width)).collect(),
            in_grid: columns().map(|x| node_at(share(x, width))).collect(),
        }
    }

    pub(super) const fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Takes an image in, row by row.
    pub(super) fn fill(&mut self, image: &[f32], black: f32) {
        self.pixels.fill(black);
        self.black = black;
        let rows = self.pixels.chunks_exact_mut(self.width + 3 * BORDER).skip(BORDER);
        for (row, image) in rows.zip(image.chunks_exact(self.width)) {
            row[BORDER..][..self.width].copy_from_slice(image);
        }
        self.ink = Ink::of(image, self.width, black);
    }

    /// Appends the image as it looks from where its pixels come from.
    pub(super) fn warp(&self, affine: &Affine, elastic: Option<&Elastic>, out: &mut Vec<f32>) {
        let [a, b, c, d] = affine.matrix;
        let [right, down] = affine.offset;
        for y in 0..self.height {
            let from_middle = y as f32 - middle(self.height);
            let x_of_row = b * from_middle + right + middle(self.width);
            let y_of_row = d * from_middle + down + middle(self.height);
            let nodes = elastic.map(|elastic| elastic.row(share(y, self.height)));
            let (columns, _) = self.from_middle.as_chunks::<LANES>();
            for (first, columns) in (0..self.width).step_by(LANES).zip(columns) {
                let len = LANES.min(self.width - first);
                let mut xs = columns.map(|from_middle| a * from_middle + x_of_row);
                let mut ys = columns.map(|from_middle| c * from_middle + y_of_row);
                if let Some(nodes) = &nodes {
                    for (lane, &(node, part)) in self.in_grid[first..][..LANES].iter().enumerate() {
                        let [dx, dy] = mixed(nodes[node], nodes[node + 1], part);
                        xs[lane] += dx;
                        ys[lane] += dy;
                    }
                } else if self.ink.is_missed([xs[0], ys[0]], [xs[LANES - 1], ys[LANES - 1]]) {
                    out.resize(out.len() + len, self.black);
                    continue;
                }
                out.extend_from_slice(&self.values(xs, ys)[..len]);
            }
        }
    }

    /// The values at these places of the image, each between four pixels; beyond the image black.
    #[inline(always)]
    fn values(&self, xs: [f32; LANES], ys: [f32; LANES]) -> [f32; LANES] {
        let (columns, rights) = pixels_before(xs, self.width);
        let (rows, downs) = pixels_before(ys, self.height);
        let stride = self.width + 3 * BORDER;
        let mut four = [[0.0; LANES]; 4];
        for lane in 0..LANES {
            let at = rows[lane] as usize * stride + columns[lane] as usize;
            let pixels = &self.pixels[at..][..stride + 2];
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

/// The pixel before each of these places along a side, counted with the border, and the part of the way to the next.
#[inline(always)]
fn pixels_before(places: [f32; LANES], len: usize) -> ([u32; LANES], [f32; LANES]) {
    let last = (len + BORDER) as f32;
    let places = places.map(|place| {
        let place = place + BORDER as f32;
        // A number that is none is no larger than 0, and so becomes it.
        let place = if place > 0.0 { place } else { 0.0 };
        if place < last { place } else { last }
    });
    // Added to this, a number below it is rounded to a whole one, which its last bits then are: what a conversion gives
    // takes several times as long without the newest instructions.
    const WHOLE: f32 = (1 << 23) as f32;
    let whole = places.map(|place| {
        let nearest = (place + WHOLE) - WHOLE;
        nearest - if nearest > place { 1.0 } else { 0.0 }
    });
    let pixels = whole.map(|whole| (whole + WHOLE).to_bits() - WHOLE.to_bits());
    (pixels, std::array::from_fn(|lane| places[lane] - whole[lane]))
}

/// Between which columns and rows, not included, the pixels of an image that are not black lie.
#[derive(Debug, PartialEq)]
struct Ink {
    /// Columns, then rows.
    before: [f32; 2],
    after: [f32; 2],
}

impl Ink {
    const NONE: Self = Self { before: [f32::INFINITY; 2], after: [f32::NEG_INFINITY; 2] };

    fn of(image: &[f32], width: usize, black: f32) -> Self {
        let mut columns = vec![false; width];
        let row_is_inked = |row: &[f32]| {
            row.iter().zip(&mut columns).fold(false, |any, (&value, column)| {
                *column |= value != black;
                any | (value != black)
            })
        };
        let rows: Vec<bool> = image.chunks_exact(width).map(row_is_inked).collect();
        let ends = |inked: &[bool]| {
            let first = inked.iter().position(|&inked| inked)?;
            Some((first, inked.iter().rposition(|&inked| inked)?))
        };
        let (Some((left, right)), Some((top, bottom))) = (ends(&columns), ends(&rows)) else {
            return Self::NONE;
        };
        let before = |first: usize| first as f32 - 1.0;
        let after = |last: usize| last as f32 + 1.0;
        Self { before: [before(left), before(top)], after: [after(right), after(bottom)] }
    }

    /// Whether all places of a straight line between these two, (x, y), are between black pixels alone. It may be no
    /// where it is yes.
    fn is_missed(&self, from: [f32; 2], to: [f32; 2]) -> bool {
        (0..2).any(|side| {
            let (before, after) = (self.before[side], self.after[side]);
            (from[side] < before && to[side] < before) || (from[side] >= after && to[side] >= after)
        })
    }
}

/// The middle of a side of so many pixels.
fn middle(len: usize) -> f32 {
    (len as f32 - 1.0) / 2.0
}

/// How far along a side a pixel lies.
fn share(at: usize, len: usize) -> f32 {
    at as f32 / (len.max(2) - 1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use vit_random::{Random, Site};

    const SIZE: (usize, usize) = (5, 7);

    /// Pixel (y, x) holds `10 y + x`.
    fn warped(affine: &Affine, elastic: Option<&Elastic>) -> Vec<f32> {
        let image: Vec<f32> = (0..35).map(|at| (10 * (at / 7) + at % 7) as f32).collect();
        let (mut canvas, mut out) = (Canvas::new(SIZE), Vec::new());
        canvas.fill(&image, -1.0);
        canvas.warp(affine, elastic, &mut out);
        out
    }

    fn affine(matrix: [f32; 4], offset: [f32; 2]) -> Affine {
        Affine { matrix, offset }
    }

    const IDENTITY: [f32; 4] = [1.0, 0.0, 0.0, 1.0];

    #[test]
    fn a_whole_shift_moves_pixels_and_half_a_pixel_mixes_them() {
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
    fn half_a_turn_is_the_image_from_its_end() {
        let turned = warped(&affine([-1.0, 0.0, 0.0, -1.0], [0.0; 2]), None);
        let mut image = warped(&affine(IDENTITY, [0.0; 2]), None);
        image.reverse();
        assert_eq!(turned, image);
    }

    /// What a single pixel is, computed without its neighbours.
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

    /// Side by side, and with what is black left out.
    #[test]
    fn pixels_are_to_the_bit_what_each_alone_is() {
        for (height, width) in [(1, 1), (5, 7), (28, 28), (19, 33)] {
            let mut image = vec![-1.0; height * width];
            let mut canvas = Canvas::new((height, width));
            for sample in 0..60 {
                let mut stream = Random::new(3).stream(Site::named("test"), sample);
                let [a, b, c, d, right, down] =
                    std::array::from_fn(|_| stream.uniform_in(-2.5, 2.5) as f32);
                // Without ink at first, then with more and more.
                image[stream.below((height * width) as u32) as usize] = stream.uniform() as f32;
                if sample == 0 {
                    image.fill(-1.0);
                }
                canvas.fill(&image, -1.0);
                let mut out = Vec::new();
                canvas.warp(&affine([a, b, c, d], [right, down]), None, &mut out);
                for (at, got) in out.iter().enumerate() {
                    let x = (at % width) as f32 - middle(width);
                    let y = (at / width) as f32 - middle(height);
                    let from = [
                        a * x + (b * y + right + middle(width)),
                        c * x + (d * y + down + middle(height)),
                    ];
                    assert_eq!(got.to_bits(), value(&image, (height, width), from).to_bits());
                }
            }
        }
    }

    #[test]
    fn ink_is_found_where_it_is() {
        let mut image = vec![-1.0; 35];
        assert_eq!(Ink::of(&image, 7, -1.0), Ink::NONE);
        image[7 + 2] = 0.0;
        image[3 * 7 + 6] = 0.0;
        let ink = Ink::of(&image, 7, -1.0);
        assert_eq!(ink, Ink { before: [1.0, 0.0], after: [7.0, 4.0] });
        assert!(ink.is_missed([0.0, 2.0], [0.9, 2.0]) && ink.is_missed([2.0, 4.0], [5.0, 4.5]));
        assert!(!ink.is_missed([0.0, 2.0], [1.0, 2.0]) && !ink.is_missed([2.0, 4.5], [5.0, 3.9]));
    }

    #[test]
    fn a_grid_displaced_as_one_is_a_shift() {
        let elastic = Elastic { nodes: [[[1.0, -1.0]; NODES]; NODES] };
        let shift = affine(IDENTITY, [1.0, -1.0]);
        assert_eq!(warped(&affine(IDENTITY, [0.0; 2]), Some(&elastic)), warped(&shift, None));
    }

    /// Where the image's points go forward, the way back finds them.
    #[test]
    fn the_way_back_is_the_inverse_of_shear_scale_rotation_and_shift() {
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
