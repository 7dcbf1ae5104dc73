//! The standard normal distribution on [`Lanes`].

use crate::exp::exp;
use crate::lanes::Lanes;

/// `(Φ(x), φ(x))`: distribution function and density, within 1.2e-7.
///
/// With `a = |x|`, `Φ(-a) = exp(-a²/2) r(a)`, where `r` falls smoothly from 1/2 (as in Abramowitz and Stegun, 26.2.17):
/// `r(a) = 1/2 - (1 - t) w(t)` with `t = 1 / (1 + 0.45 a)` and a polynomial `w` of degree 8, fitted to a relative error
/// of 3e-8 in `r` for `a < 14`. `1 - t` is taken as `0.45 a t`, which does not cancel. `Φ(a) = 1 - Φ(-a)`.
#[inline(always)]
pub(crate) fn normal<L: Lanes>(lanes: L, x: L::Vector) -> (L::Vector, L::Vector) {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    /// From the highest degree down.
    const COEFFICIENTS: [f32; 9] = [
        0.038_848_333,
        -0.189_521_92,
        0.353_686_12,
        -0.264_389_16,
        0.003_984_983_5,
        -0.019_755_404,
        0.143_391_68,
        0.320_287_53,
        0.500_006_2,
    ];
    let bell = exp(lanes, lanes.mul(lanes.mul(lanes.splat(-0.5), x), x));
    let a = lanes.max(x, lanes.sub(lanes.splat(0.0), x));
    // -0.45 a. Beyond 64, the exponential is zero, and infinity times zero would be NaN.
    let scaled = lanes.max(lanes.splat(-0.45 * 64.0), lanes.mul(lanes.splat(-0.45), a));
    let t = lanes.div(lanes.splat(1.0), lanes.sub(lanes.splat(1.0), scaled));
    let mut polynomial = lanes.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = lanes.mul_add(polynomial, t, lanes.splat(*coefficient));
    }
    let r = lanes.mul_add(lanes.mul(scaled, t), polynomial, lanes.splat(0.5));
    let below = lanes.mul(bell, r);
    let cumulative = lanes.where_positive(x, lanes.sub(lanes.splat(1.0), below), below);
    (cumulative, lanes.mul(bell, lanes.splat(FRAC_1_SQRT_2PI)))
}

#[cfg(test)]
mod tests {
    use crate::lanes::{Lanes, update};
    use crate::simd::{self, Kernel};

    /// Distribution function and density of each number.
    struct Normal<'a> {
        xs: &'a [f32],
        cumulative: &'a mut [f32],
        density: &'a mut [f32],
    }

    impl Kernel for Normal<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            update(lanes, [self.xs], [self.cumulative, self.density], |[x], _| {
                super::normal(lanes, x).into()
            });
        }
    }

    /// `(Φ(x), φ(x))` of each number.
    fn normal_on(arch: pulp::Arch, xs: &[f32]) -> Vec<(f32, f32)> {
        let (mut cumulative, mut density) = (vec![0.0; xs.len()], vec![0.0; xs.len()]);
        let kernel = Normal { xs, cumulative: &mut cumulative, density: &mut density };
        simd::run_on(arch, kernel);
        cumulative.into_iter().zip(density).collect()
    }

    fn normal(xs: &[f32]) -> Vec<(f32, f32)> {
        normal_on(*simd::FUSED, xs)
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut xs: Vec<f32> = (-703..703).map(|i| i as f32 * 0.011).collect();
        xs.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0, f32::MAX, f32::MIN]);
        simd::assert_paths_agree("normal", |arch| {
            normal_on(arch, &xs).into_iter().flat_map(|(a, b)| [a, b]).collect()
        });
    }

    /// `Φ(x)` by the series `1/2 + φ(x) (x + x³/3 + x⁵/15 + ...)`, whose terms have one sign.
    fn exact(x: f64) -> (f64, f64) {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            odd += 2.0;
            term *= x * x / odd;
            sum += term;
        }
        (0.5 + density * sum, density)
    }

    #[test]
    fn reference_equals_a_known_value() {
        // Abramowitz and Stegun, table 26.1.
        assert!((exact(1.0).0 - 0.841_344_746_068_543).abs() < 1e-15);
        assert!((exact(-2.5).0 - 0.006_209_665_325_776).abs() < 1e-15);
    }

    #[test]
    fn within_an_epsilon_of_the_exact_values() {
        const EPSILON: f64 = f32::EPSILON as f64;
        let xs: Vec<f32> = (-140_000..=140_000).map(|step| step as f32 * 1e-4).collect();
        for (&x, (cumulative, density)) in xs.iter().zip(normal(&xs)) {
            let (want, want_density) = exact(f64::from(x));
            assert!((f64::from(cumulative) - want).abs() < EPSILON, "{x}: {cumulative} {want}");
            assert!((f64::from(density) - want_density).abs() < EPSILON, "{x}: {density}");
        }
    }

    #[test]
    fn small_probabilities_keep_their_digits() {
        // erfc(5/√2)/2 and erfc(10/√2)/2.
        for (x, want) in [(-5.0, 2.866_515_718_791_939e-7), (-10.0, 7.619_853_024_160_527e-24)] {
            assert!((f64::from(normal(&[x])[0].0) / want - 1.0).abs() < 2e-5, "{x}");
        }
    }

    #[test]
    fn infinities_and_nan_are_handled() {
        let got = normal(&[f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN]);
        assert_eq!(got[..3], [(1.0, 0.0), (0.0, 0.0), (1.0, 0.0)]);
        assert!(got[3].0.is_nan() && got[3].1.is_nan());
    }
}
