//! A small grey image, drawn on with a round pen.

use vit_random::Stream;

/// Height and width of the image.
pub(super) const SIDE: usize = 28;

/// Pixels of a row that are computed together, in vector registers.
const LANES: usize = 8;

/// Columns stored in a row: the last lanes may pass the image's right edge.
const COLUMNS: usize = SIDE + LANES - 1;

/// Width in pixels of a stroke's soft edge.
const EDGE: f32 = 1.2;

/// A point on the pen's path, in pixels from the upper left corner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dot {
    pub(super) x: f32,
    pub(super) y: f32,
    /// Radius of the pen.
    pub(super) radius: f32,
    /// Brightness of the stroke; 255 is white.
    pub(super) light: f32,
}

/// The image being drawn.
pub(super) struct Canvas {
    light: [[f32; COLUMNS]; SIDE],
}

impl Canvas {
    /// A black image.
    pub(super) fn new() -> Self {
        Self { light: [[0.0; COLUMNS]; SIDE] }
    }

    /// Draws along a chain of dots.
    pub(super) fn draw(&mut self, stroke: &[Dot]) {
        for pair in stroke.windows(2) {
            self.draw_piece(pair[0], pair[1]);
        }
    }

    /// Appends the image as bytes to `out`, with approximately normal noise of this standard deviation.
    pub(super) fn develop(&self, noise: f32, stream: &mut Stream, out: &mut Vec<u8>) {
        // The sum of four uniform bytes has a variance of 4 · (256² - 1) / 12.
        const UNIT: f32 = 1.0 / 147.800_54;
        let mut bits = [0; SIDE * SIDE];
        stream.fill(&mut bits);
        for (row, bits) in self.light.iter().zip(bits.chunks_exact(SIDE)) {
            out.extend(row[..SIDE].iter().zip(bits).map(|(light, bits)| {
                let sum: u32 = bits.to_le_bytes().into_iter().map(u32::from).sum();
                let grain = (sum as f32 - 510.0) * UNIT;
                // The conversion saturates.
                (light + noise * grain + 0.5) as u8
            }));
        }
    }

    /// Draws a straight piece: each pixel by its distance from it.
    fn draw_piece(&mut self, from: Dot, to: Dot) {
        let reach = from.radius.max(to.radius) + EDGE / 2.0;
        let (right, down) = (to.x - from.x, to.y - from.y);
        // On a piece without length every point is its start.
        let length_squared = (right * right + down * down).max(f32::MIN_POSITIVE);
        let columns = pixels(from.x.min(to.x) - reach, from.x.max(to.x) + reach);
        for row in pixels(from.y.min(to.y) - reach, from.y.max(to.y) + reach) {
            let y = row as f32 + 0.5 - from.y;
            for first in columns.clone().step_by(LANES) {
                let lanes = self.light[row][first..].first_chunk_mut::<LANES>();
                let lanes = lanes.expect("a row has columns for the last lanes");
                for (lane, pixel) in lanes.iter_mut().enumerate() {
                    // From the start of the piece to the pixel's centre.
                    let x = (first + lane) as f32 + 0.5 - from.x;
                    let along = ((x * right + y * down) / length_squared).clamp(0.0, 1.0);
                    let (x, y) = (x - along * right, y - along * down);
                    let distance_squared = x * x + y * y;
                    let radius = from.radius + along * (to.radius - from.radius);
                    let cover = ((radius - distance_squared.sqrt()) / EDGE + 0.5).clamp(0.0, 1.0);
                    *pixel = pixel.max(cover * from.light);
                }
            }
        }
    }
}

/// The pixels with their centre in this interval, within the image.
fn pixels(low: f32, high: f32) -> std::ops::Range<usize> {
    // The conversions saturate at 0.
    let low = (low + 0.5) as usize;
    let high = (high + 0.5) as usize;
    low.min(SIDE)..high.min(SIDE)
}
