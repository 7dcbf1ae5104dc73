//! The exponential function in a form that compilers turn into vector code.

/// `exp(x)` for `x <= 88`, within 2 ULP; 0 below -87.3, where the result would be subnormal.
///
/// Cephes' `expf`: `exp(x) = 2ⁿ exp(r)` with `n = round(x / ln 2)` and `|r| <= ln 2 / 2`, where `ln 2` is
/// taken off in two parts and `exp(r)` is a polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    /// Adding and taking off 1.5 · 2²³ rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut polynomial = 1.987_569_1e-4;
    polynomial = polynomial * r + 1.398_199_9e-3;
    polynomial = polynomial * r + 8.333_452e-3;
    polynomial = polynomial * r + 4.166_579_6e-2;
    polynomial = polynomial * r + 1.666_666_5e-1;
    polynomial = polynomial * r + 5.000_000_3e-1;
    let mantissa = polynomial * r * r + r + 1.0;
    // The lowest bits of `rounded` are those of `n`: the shift leaves them as an exponent.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < LOWEST { 0.0 } else { mantissa * power }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn within_two_ulp_of_the_exact_value() {
        let mut x = -87.0_f32;
        while x < 87.0 {
            let exact = f64::from(x).exp();
            let ulp = f64::from(f32::EPSILON) * exact;
            assert!((f64::from(exp(x)) - exact).abs() <= 2.0 * ulp, "exp({x}) = {}", exp(x));
            x += 0.001_7;
        }
    }

    #[test]
    fn the_ends_and_nan_are_kept() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
