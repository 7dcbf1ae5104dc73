//! The exponential function on [`Lanes`].

use crate::lanes::{Lanes, ROUND};

/// The result is 0 below this, where `2ⁿ` would be subnormal.
const LOWEST: f32 = -88.0;
/// `ln 2` in two parts, the first with few bits.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// From the highest degree down to the second.
const COEFFICIENTS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1];

/// `exp(x)` for `x <= 88`, within 2 ULP; 0 below -87.7.
///
/// Cephes' `expf`: `exp(x) = 2ⁿ exp(r)` with `n = round(x / ln 2)` and `|r| <= ln 2 / 2`, where `ln 2` is subtracted in
/// two parts and `exp(r)` is a polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    let x = lanes.max(lanes.splat(LOWEST), x);
    let rounded = lanes.mul_add(x, lanes.splat(std::f32::consts::LOG2_E), lanes.splat(ROUND));
    let n = lanes.sub(rounded, lanes.splat(ROUND));
    let r = lanes.mul_add(n, lanes.splat(-LN_2[0]), x);
    let r = lanes.mul_add(n, lanes.splat(-LN_2[1]), r);
    let mut polynomial = lanes.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = lanes.mul_add(polynomial, r, lanes.splat(*coefficient));
    }
    let mantissa = lanes.mul_add(lanes.mul(polynomial, r), r, r);
    lanes.mul(lanes.add(mantissa, lanes.splat(1.0)), lanes.power_of_two(rounded))
}

#[cfg(test)]
mod tests {
    use super::exp;
    use crate::lanes::{Lanes, update};
    use crate::simd::{self, Kernel};

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            update(lanes, [], [self.0], |[], [x]| [exp(lanes, x)]);
        }
    }

    #[test]
    fn within_two_ulp_of_the_exact_value_on_every_path() {
        let xs: Vec<f32> = (0..100_000).map(|step| -87.0 + 0.001_74 * step as f32).collect();
        for (path, arch) in simd::paths() {
            let mut ys = xs.clone();
            simd::run_on(arch, Exp(&mut ys));
            for (x, y) in xs.iter().zip(ys) {
                let exact = f64::from(*x).exp();
                let ulp = f64::from(f32::EPSILON) * exact;
                assert!((f64::from(y) - exact).abs() <= 2.0 * ulp, "{path}: exp({x}) = {y}");
            }
        }
    }

    #[test]
    fn infinities_and_nan_are_handled() {
        for (path, arch) in simd::paths() {
            let mut xs = [0.0, -1000.0, f32::NEG_INFINITY, f32::NAN];
            simd::run_on(arch, Exp(&mut xs));
            assert_eq!(xs[..3], [1.0, 0.0, 0.0], "{path}");
            assert!(xs[3].is_nan(), "{path}");
        }
    }
}
