//! Random erasing (Zhong et al., arXiv 1708.04896): a rectangle becomes black.

use vit_random::Stream;

/// The share of the image that goes.
const LEAST: f64 = 0.02;
const MOST: f64 = 0.2;
/// The paper's: height over width, or the inverse.
const SLIMMEST: f64 = 0.3;

/// Some rows and columns of an image.
pub(super) struct Rectangle {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    /// Columns of the image.
    columns: usize,
}

impl Rectangle {
    /// One within an image of this size (height, width), at least a pixel.
    pub(super) fn drawn((rows, columns): (usize, usize), stream: &mut Stream) -> Self {
        let area = stream.uniform_in(LEAST, MOST) * (rows * columns) as f64;
        let ratio = stream.uniform_in(SLIMMEST.ln(), -SLIMMEST.ln()).exp();
        let side = |length: f64, most: usize| (length.round() as usize).clamp(1, most);
        let height = side((area * ratio).sqrt(), rows);
        let width = side((area / ratio).sqrt(), columns);
        let mut begin = |free: usize| (stream.uniform() * (free + 1) as f64) as usize;
        Self { top: begin(rows - height), left: begin(columns - width), height, width, columns }
    }

    pub(super) fn fill(&self, image: &mut [f32], value: f32) {
        for row in image.chunks_exact_mut(self.columns).skip(self.top).take(self.height) {
            row[self.left..][..self.width].fill(value);
        }
    }
}
