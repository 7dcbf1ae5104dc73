//! The exponential function in a form that compilers vectorise, with the constants it shares with
//! [`Lanes`](crate::lanes::Lanes).

/// The result is 0 below this, where `2ⁿ` would be subnormal.
pub(crate) const LOWEST: f32 = -88.0;
/// Adding and subtracting 1.5 · 2²³ rounds to the nearest integer.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// `ln 2` in two parts, the first with few bits.
pub(crate) const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// From the highest degree down to the second.
pub(crate) const COEFFICIENTS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1];
/// The bits of 2⁰.
pub(crate) const ONE: u32 = 1.0_f32.to_bits();

/// `exp(x)` for `x <= 88`, within 2 ULP; 0 below -87.7.
///
/// Cephes' `expf`: `exp(x) = 2ⁿ exp(r)` with `n = round(x / ln 2)` and `|r| <= ln 2 / 2`, where `ln 2` is subtracted in
/// two parts and `exp(r)` is a polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if LOWEST > x { LOWEST } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut polynomial = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = polynomial * r + coefficient;
    }
    let mantissa = polynomial * r * r + r + 1.0;
    // `rounded` ends in the lowest bits of `n`; the shift makes them the exponent.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(ONE));
    mantissa * power
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
    fn infinities_and_nan_are_handled() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
