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
    /// For each column, its place in the elastic grid.
    columns: Vec<(usize, f32)>,
}

/// Black pixels before the first row and column, and twice as many after the last.
const BORDER: usize = 1;

impl Canvas {
    pub(super) fn new((height, width): (usize, usize)) -> Self {
        let pixels = vec![0.0; (height + 3 * BORDER) * (width + 3 * BORDER)];
        let columns = (0..width).map(|x| node_at(share(x, width))).collect();
        Self { height, width, pixels, columns }
    }

    pub(super) const fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Takes an image in, row by row.
    pub(super) fn fill(&mut self, image: &[f32], black: f32) {
        self.pixels.fill(black);
        let rows = self.pixels.chunks_exact_mut(self.width + 3 * BORDER).skip(BORDER);
        for (row, image) in rows.zip(image.chunks_exact(self.width)) {
            row[BORDER..][..self.width].copy_from_slice(image);
        }
    }

    /// Appends the image as it looks from where its pixels come from.
    pub(super) fn warp(&self, affine: &Affine, elastic: Option<&Elastic>, out: &mut Vec<f32>) {
        let [a, b, c, d] = affine.matrix;
        let [right, down] = affine.offset;
        let middle = |len: usize| (len as f32 - 1.0) / 2.0;
        let (middle_x, middle_y) = (middle(self.width), middle(self.height));
        for y in 0..self.height {
            let from_middle = y as f32 - middle_y;
            let x_of_row = b * from_middle + right + middle_x;
            let y_of_row = d * from_middle + down + middle_y;
            let at = |x: usize| {
                let from_middle = x as f32 - middle_x;
                (a * from_middle + x_of_row, c * from_middle + y_of_row)
            };
            match elastic {
                None => out.extend((0..self.width).map(|x| {
                    let (x, y) = at(x);
                    self.value(x, y)
                })),
                Some(elastic) => {
                    let nodes = elastic.row(share(y, self.height));
                    out.extend(self.columns.iter().enumerate().map(|(x, &(node, part))| {
                        let [dx, dy] = mixed(nodes[node], nodes[node + 1], part);
                        let (x, y) = at(x);
                        self.value(x + dx, y + dy)
                    }));
                }
            }
        }
    }

    /// The value at this place of the image, between four pixels; beyond the image black.
    fn value(&self, x: f32, y: f32) -> f32 {
        let border = BORDER as f32;
        let x = (x + border).clamp(0.0, (self.width + BORDER) as f32);
        let y = (y + border).clamp(0.0, (self.height + BORDER) as f32);
        let (column, row) = (x as usize, y as usize);
        let (right, down) = (x - column as f32, y - row as f32);
        let stride = self.width + 3 * BORDER;
        let four = &self.pixels[row * stride + column..][..stride + 2];
        let above = four[0] + right * (four[1] - four[0]);
        let below = four[stride] + right * (four[stride + 1] - four[stride]);
        above + down * (below - above)
    }
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
