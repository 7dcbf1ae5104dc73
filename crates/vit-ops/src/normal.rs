//! The standard normal distribution, in a form that compilers turn into vector code.

use crate::exp::exp;

/// `(Φ(x), φ(x))`: the probability of a number below `x`, and the density there, within 1.2e-7.
///
/// With `a = |x|`, `Φ(-a) = φ(a) m(a)`, where Mills' ratio `m` is smooth and without an exponential: a polynomial of
/// degree 9 in `t = 1 / (1 + 0.35 a)` for `√(2π)⁻¹ m(a)`, fitted to a relative error of 3.2e-8 for `a < 14` (as
/// Abramowitz and Stegun, 26.2.17, with more terms). `Φ(a) = 1 - Φ(-a)`.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.35 * x.abs());
    let mut polynomial = RATIO[0];
    let mut degree = 1;
    while degree < RATIO.len() {
        polynomial = polynomial * t + RATIO[degree];
        degree += 1;
    }
    let below = bell * (polynomial * t);
    let cumulative = if x > 0.0 { 1.0 - below } else { below };
    (cumulative, bell * FRAC_1_SQRT_2PI)
}

const FRAC_1_SQRT_2PI: f32 = 0.398_942_28;

/// From the highest degree down to the first.
const RATIO: [f32; 9] = [
    -0.029_146_055,
    0.143_972_29,
    -0.255_715_44,
    0.159_175_46,
    -0.023_110_684,
    0.105_508_34,
    0.119_832_79,
    0.139_861_88,
    0.139_621_40,
];

#[cfg(test)]
mod tests {
    use super::normal;

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
    fn the_reference_is_right_at_a_known_point() {
        // Abramowitz and Stegun, table 26.1.
        assert!((exact(1.0).0 - 0.841_344_746_068_543).abs() < 1e-15);
        assert!((exact(-2.5).0 - 0.006_209_665_325_776).abs() < 1e-15);
    }

    #[test]
    fn within_an_epsilon_of_the_exact_values() {
        const EPSILON: f64 = f32::EPSILON as f64;
        for step in -140_000..=140_000 {
            let x = step as f32 * 1e-4;
            let ((cumulative, density), (want, want_density)) = (normal(x), exact(f64::from(x)));
            assert!((f64::from(cumulative) - want).abs() < EPSILON, "{x}: {cumulative} {want}");
            assert!((f64::from(density) - want_density).abs() < EPSILON, "{x}: {density}");
        }
    }

    #[test]
    fn small_probabilities_keep_their_digits() {
        // erfc(5/√2)/2 and erfc(10/√2)/2.
        for (x, want) in [(-5.0, 2.866_515_718_791_939e-7), (-10.0, 7.619_853_024_160_527e-24)] {
            assert!((f64::from(normal(x).0) / want - 1.0).abs() < 2e-5, "{x}");
        }
    }

    #[test]
    fn the_ends_and_nan_are_kept() {
        assert_eq!(normal(f32::INFINITY), (1.0, 0.0));
        assert_eq!(normal(f32::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(normal(f32::MAX), (1.0, 0.0));
        assert!(normal(f32::NAN).0.is_nan() && normal(f32::NAN).1.is_nan());
    }
}
