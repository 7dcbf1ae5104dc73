//! Random erasing (Zhong et al., arXiv 1708.04896): blacks out a rectangle.

use vit_random::Stream;

/// Smallest and largest erased share of the area.
const LEAST: f64 = 0.02;
const MOST: f64 = 0.2;
/// The paper's limit of the aspect ratio; its inverse is the other limit.
const SLIMMEST: f64 = 0.3;

/// A rectangle of an image, in rows and columns.
#[derive(Clone, Debug)]
pub(crate) struct Rectangle {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    /// Columns of the whole image.
    columns: usize,
}

impl Rectangle {
    /// Draws a rectangle inside an image of this size (height, width), at least one pixel large.
    pub(super) fn drawn((rows, columns): (usize, usize), stream: &mut Stream) -> Self {
        let area = stream.uniform_in(LEAST, MOST) * (rows * columns) as f64;
        let ratio = stream.uniform_in(SLIMMEST.ln(), -SLIMMEST.ln()).exp();
        let side = |length: f64, most: usize| (length.round() as usize).clamp(1, most);
        let height = side((area * ratio).sqrt(), rows);
        let width = side((area / ratio).sqrt(), columns);
        let mut begin = |free: usize| (stream.uniform() * (free + 1) as f64) as usize;
        Self { top: begin(rows - height), left: begin(columns - width), height, width, columns }
    }

    /// CutMix's rectangle (arXiv 1905.04899): this share of the area, the image's aspect ratio, centred on any point.
    /// It is clipped to the image, which may leave nothing.
    pub(super) fn of_share(
        share: f64,
        (rows, columns): (usize, usize),
        stream: &mut Stream,
    ) -> Self {
        let side = |length: usize| (length as f64 * share.sqrt()) as usize;
        let mut span = |length: usize| {
            let middle = (stream.uniform() * length as f64) as usize;
            let begin = middle.saturating_sub(side(length) / 2);
            (begin, (middle + side(length) / 2).min(length) - begin)
        };
        let (top, height) = span(rows);
        let (left, width) = span(columns);
        Self { top, left, height, width, columns }
    }

    /// Number of pixels.
    pub(super) const fn area(&self) -> usize {
        self.height * self.width
    }

    /// Copies the rectangle from one image to the other, in every channel of `plane` pixels.
    pub(crate) fn paste(&self, from: &[u8], to: &mut [u8], plane: usize) {
        let channels = to.chunks_exact_mut(plane).zip(from.chunks_exact(plane));
        for (to, from) in channels {
            for row in self.top..self.top + self.height {
                let begin = row * self.columns + self.left;
                to[begin..][..self.width].copy_from_slice(&from[begin..][..self.width]);
            }
        }
    }

    pub(super) fn fill(&self, image: &mut [f32], value: f32) {
        for row in image.chunks_exact_mut(self.columns).skip(self.top).take(self.height) {
            row[self.left..][..self.width].fill(value);
        }
    }
}
