//! Random handwriting: everything that differs between two drawings of a digit.

use vit_random::Stream;

use super::glyphs::{GLYPHS, Knot, Turn};
use super::raster::{Dot, SIDE};

/// Straight pieces between two points of a curve.
const PIECES: usize = 6;

/// One writer's hand for one digit.
pub(super) struct Hand {
    stream: Stream,
}

impl Hand {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// The strokes of a digit in pixels, each a chain of dots.
    pub(super) fn write(&mut self, class: usize) -> Vec<Vec<Dot>> {
        let ways = GLYPHS[class];
        let way = ways[self.stream.below(ways.len() as u32) as usize];
        let bend = Bend::draw(&mut self.stream);
        let mut strokes: Vec<Vec<Knot>> = way
            .iter()
            .map(|stroke| stroke.iter().map(|&knot| self.shake(knot)).collect())
            .collect();
        let pose = Pose::draw(&mut self.stream);
        for knot in strokes.iter_mut().flatten() {
            (knot.x, knot.y) = pose.turn(bend.apply((knot.x, knot.y)));
        }
        self.place(&mut strokes);
        let pen = Pen::draw(&mut self.stream);
        strokes.iter().map(|stroke| pen.trace(stroke)).collect()
    }

    /// Standard deviation of the noise on every pixel; white is 255.
    pub(super) fn noise(&mut self) -> f32 {
        self.stream.uniform_in(2.0, 14.0) as f32
    }

    /// Moves a knot slightly.
    fn shake(&mut self, knot: Knot) -> Knot {
        const SPREAD: f64 = 0.028;
        Knot {
            x: knot.x + SPREAD * bell(&mut self.stream),
            y: knot.y + SPREAD * bell(&mut self.stream),
            ..knot
        }
    }

    /// Centres the drawing, roughly.
    fn place(&mut self, strokes: &mut [Vec<Knot>]) {
        const SPREAD: f64 = 0.8;
        let middle = |along: fn(&Knot) -> f64| {
            let knots = strokes.iter().flatten().map(along);
            let (low, high) =
                knots.fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
            (low + high) / 2.0
        };
        let (x, y) = (middle(|knot| knot.x), middle(|knot| knot.y));
        let centre = SIDE as f64 / 2.0;
        let (right, down) = (
            centre - x + SPREAD * bell(&mut self.stream),
            centre - y + SPREAD * bell(&mut self.stream),
        );
        for knot in strokes.iter_mut().flatten() {
            knot.x += right;
            knot.y += down;
        }
    }
}

/// A smooth distortion of the whole square: strokes that meet still meet.
struct Bend {
    right: f64,
    down: f64,
}

impl Bend {
    fn draw(stream: &mut Stream) -> Self {
        Self { right: 0.25 * bell(stream), down: 0.2 * bell(stream) }
    }

    fn apply(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (from_x, from_y) = (x - 0.5, y - 0.5);
        (x + self.right * from_y * from_y, y + self.down * from_x * from_x)
    }
}

/// Proportions, slant and rotation: a linear map from the unit square to pixels.
struct Pose {
    x: (f64, f64),
    y: (f64, f64),
}

impl Pose {
    fn draw(stream: &mut Stream) -> Self {
        let height = stream.uniform_in(16.0, 20.5);
        let width = height * stream.uniform_in(0.7, 1.05);
        // Most handwriting slants to the right: the top, where y is small, goes right.
        let slant = 0.12 + 0.17 * bell(stream);
        // Tangent of the rotation angle.
        let tangent = 0.1 * bell(stream);
        let cos = 1.0 / (1.0 + tangent * tangent).sqrt();
        let sin = tangent * cos;
        // Rotation × slant × scale.
        Self {
            x: (cos * width, (-cos * slant - sin) * height),
            y: (sin * width, (-sin * slant + cos) * height),
        }
    }

    fn turn(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.0 * x + self.x.1 * y, self.y.0 * x + self.y.1 * y)
    }
}

/// A pen, and its pressure from the first to the last point of a stroke.
struct Pen {
    radius: f64,
    fade: f64,
    light: f64,
}

impl Pen {
    fn draw(stream: &mut Stream) -> Self {
        Self {
            radius: stream.uniform_in(0.7, 1.7),
            fade: 0.15 * bell(stream),
            light: stream.uniform_in(185.0, 255.0),
        }
    }

    /// The path through the knots, as a Catmull-Rom spline: at each knot the curve has the direction from the knot
    /// before to the knot after.
    fn trace(&self, knots: &[Knot]) -> Vec<Dot> {
        let mut dots = Vec::with_capacity(PIECES * knots.len());
        let spans = knots.len() - 1;
        for (span, pair) in knots.windows(2).enumerate() {
            let [from, to] = [pair[0], pair[1]];
            let before = if from.turn == Turn::Sharp || span == 0 { from } else { knots[span - 1] };
            let after =
                if to.turn == Turn::Sharp || span + 1 == spans { to } else { knots[span + 2] };
            // The last span also draws its end.
            let pieces = if span + 1 == spans { 0..=PIECES } else { 0..=PIECES - 1 };
            for piece in pieces {
                let t = piece as f64 / PIECES as f64;
                let along = (span as f64 + t) / spans as f64;
                let firmness = 1.0 + self.fade * (1.0 - 2.0 * along);
                dots.push(Dot {
                    x: spline([before.x, from.x, to.x, after.x], t) as f32,
                    y: spline([before.y, from.y, to.y, after.y], t) as f32,
                    radius: (self.radius * firmness) as f32,
                    light: self.light as f32,
                });
            }
        }
        dots
    }
}

/// Catmull-Rom cubic between the middle two of four values, at `t`.
fn spline([before, from, to, after]: [f64; 4], t: f64) -> f64 {
    let linear = to - before;
    let quadratic = 2.0 * before - 5.0 * from + 4.0 * to - after;
    let cubic = 3.0 * (from - to) + after - before;
    from + 0.5 * t * (linear + t * (quadratic + t * cubic))
}

/// Approximately normal, mean 0 and standard deviation 1, within ±3.5: a sum of four uniform numbers. An exact normal
/// needs a logarithm and a cosine, which differ between machines.
fn bell(stream: &mut Stream) -> f64 {
    let sum: f64 = (0..4).map(|_| stream.uniform()).sum();
    // Four uniform numbers have a variance of 4/12.
    (sum - 2.0) * SQRT_3
}

const SQRT_3: f64 = 1.732_050_807_568_877_2;
