//! The standard normal distribution, in a form that compilers vectorise.

use crate::exp::exp;

/// `(Φ(x), φ(x))`: distribution function and density, within 1.2e-7.
///
/// With `a = |x|`, `Φ(-a) = exp(-a²/2) r(a)`, where `r` falls smoothly from 1/2 (as in Abramowitz and Stegun, 26.2.17):
/// `r(a) = 1/2 - (1 - t) w(t)` with `t = 1 / (1 + 0.45 a)` and a polynomial `w` of degree 8, fitted to a relative error
/// of 3e-8 in `r` for `a < 14`. `1 - t` is taken as `0.45 a t`, which does not cancel. `Φ(a) = 1 - Φ(-a)`.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    let bell = exp(-0.5 * x * x);
    let a = x.abs();
    // Beyond, the exponential is zero, and infinity times zero would be NaN.
    let scaled = 0.45 * if a > 64.0 { 64.0 } else { a };
    let t = 1.0 / (1.0 + scaled);
    let mut polynomial = 0.038_848_333;
    polynomial = polynomial * t - 0.189_521_92;
    polynomial = polynomial * t + 0.353_686_12;
    polynomial = polynomial * t - 0.264_389_16;
    polynomial = polynomial * t + 0.003_984_983_5;
    polynomial = polynomial * t - 0.019_755_404;
    polynomial = polynomial * t + 0.143_391_68;
    polynomial = polynomial * t + 0.320_287_53;
    polynomial = polynomial * t + 0.500_006_2;
    let below = bell * (0.5 - scaled * t * polynomial);
    (if x > 0.0 { 1.0 - below } else { below }, bell * FRAC_1_SQRT_2PI)
}

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
    fn reference_equals_a_known_value() {
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
    fn infinities_and_nan_are_handled() {
        assert_eq!(normal(f32::INFINITY), (1.0, 0.0));
        assert_eq!(normal(f32::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(normal(f32::MAX), (1.0, 0.0));
        assert!(normal(f32::NAN).0.is_nan() && normal(f32::NAN).1.is_nan());
    }
}
