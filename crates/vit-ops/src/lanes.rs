//! Sixteen numbers at a time, in the machine's registers: one of AVX-512, two of AVX2, or an array.
//!
//! Every operation is IEEE 754 arithmetic on each lane, only [`Lanes::mul_add`] contracts a product and a sum, and
//! reductions go by halves, so every implementation gives the same bits, except portable code for `mul_add`.

use crate::slices::LANES;

/// Adding and subtracting 1.5 · 2²³ rounds to the nearest integer.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// The bits of 2⁰.
const ONE: u32 = 1.0_f32.to_bits();

/// The vector type that kernels use. A kernel and everything it calls are inlined into one function per instruction
/// set.
pub(crate) trait Lanes: Copy {
    /// Sixteen numbers.
    type Vector: Copy;

    /// Whether a vector is one register, as with AVX-512, which has 32.
    const IS_ONE_REGISTER: bool;

    /// `x` sixteen times.
    fn splat(self, x: f32) -> Self::Vector;
    /// `low` in the first half, `high` in the second.
    fn splat_halves(self, low: f32, high: f32) -> Self::Vector;
    fn load(self, xs: &[f32; LANES]) -> Self::Vector;
    fn store(self, xs: Self::Vector, to: &mut [f32; LANES]);
    /// The first half.
    fn store_half(self, xs: Self::Vector, to: &mut [f32; HALF]);
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a b + c`, rounded once; see [`run_fused`](crate::simd::run_fused).
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a` if it is larger, otherwise `b`, also if one of them is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a` where `x` is positive, `b` elsewhere, also where it is NaN.
    fn where_positive(self, x: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `2ⁿ` for integers `n` in -127..128, passed as `n + ROUND`; 0 for -127.
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector;
    /// The sum of the lanes, by halves: both halves are added, then both halves of that, and so on.
    fn sum(self, xs: Self::Vector) -> f32;
    /// The largest lane.
    fn largest(self, xs: Self::Vector) -> f32;
}

/// `ys = f(xs, ys)`, sixteen numbers of each slice at a time; zeros complete the last ones.
#[inline(always)]
pub(crate) fn update<L: Lanes, const I: usize, const O: usize>(
    lanes: L,
    xs: [&[f32]; I],
    ys: [&mut [f32]; O],
    f: impl Fn([L::Vector; I], [L::Vector; O]) -> [L::Vector; O],
) {
    let len = ys[0].len();
    assert!(xs.iter().all(|xs| xs.len() == len) && ys.iter().all(|ys| ys.len() == len), "lengths");
    let (whole, rest) = (len / LANES, len % LANES);
    let mut last_xs = [[0.0; LANES]; I];
    for (last, xs) in last_xs.iter_mut().zip(xs) {
        last[..rest].copy_from_slice(&xs[len - rest..]);
    }
    let mut last_ys = [[0.0; LANES]; O];
    for (last, ys) in last_ys.iter_mut().zip(&ys) {
        last[..rest].copy_from_slice(&ys[len - rest..]);
    }
    let blocks = xs.map(|xs| &xs.as_chunks().0[..whole]);
    let mut ys = ys.map(<[f32]>::as_chunks_mut);
    for index in 0..whole {
        let of_xs = blocks.map(|blocks| lanes.load(&blocks[index]));
        let of_ys = ys.each_ref().map(|(blocks, _)| lanes.load(&blocks[index]));
        for ((blocks, _), values) in ys.iter_mut().zip(f(of_xs, of_ys)) {
            lanes.store(values, &mut blocks[index]);
        }
    }
    if rest > 0 {
        let of_ys = last_ys.each_ref().map(|last| lanes.load(last));
        let values = f(last_xs.each_ref().map(|last| lanes.load(last)), of_ys);
        for (((_, ys), last), values) in ys.iter_mut().zip(&mut last_ys).zip(values) {
            lanes.store(values, last);
            ys.copy_from_slice(&last[..rest]);
        }
    }
}

/// Exchanges rows and columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "it uses instructions that every x86-64 has")]
pub(crate) fn transposed(square: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::{_mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
    let [a, b, c, d] = pulp::cast(square);
    // SAFETY: SSE is part of x86-64.
    unsafe {
        let [low, high] = [_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b)];
        let [other_low, other_high] = [_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d)];
        pulp::cast([
            _mm_movelh_ps(low, other_low),
            _mm_movehl_ps(other_low, low),
            _mm_movelh_ps(high, other_high),
            _mm_movehl_ps(other_high, high),
        ])
    }
}

/// Exchanges rows and columns.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn transposed(square: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|row| square.map(|column| column[row]))
}

/// Asks for numbers that are read a little later, one cache line after another.
#[inline(always)]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "every x86-64 has the instruction")
)]
pub(crate) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LANES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch changes nothing that a program sees.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Half of the lanes.
pub(crate) const HALF: usize = LANES / 2;

/// Sixteen numbers in an array, for the compiler to vectorise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

#[inline(always)]
fn each(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(b) {
        *out = f(*out, b);
    }
    out
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn by_halves(mut xs: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            xs[lane] = f(xs[lane], xs[lane + half]);
        }
        half /= 2;
    }
    xs[0]
}

impl Lanes for Portable {
    type Vector = [f32; LANES];

    const IS_ONE_REGISTER: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Vector {
        [x; LANES]
    }

    #[inline(always)]
    fn splat_halves(self, low: f32, high: f32) -> Self::Vector {
        std::array::from_fn(|lane| if lane < HALF { low } else { high })
    }

    #[inline(always)]
    fn load(self, xs: &[f32; LANES]) -> Self::Vector {
        *xs
    }

    #[inline(always)]
    fn store(self, xs: Self::Vector, to: &mut [f32; LANES]) {
        *to = xs;
    }

    #[inline(always)]
    fn store_half(self, xs: Self::Vector, to: &mut [f32; HALF]) {
        to.copy_from_slice(&xs[..HALF]);
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, mut c: Self::Vector) -> Self::Vector {
        for (c, (a, b)) in c.iter_mut().zip(a.into_iter().zip(b)) {
            // Without the instruction, `f32::mul_add` is a call into libm.
            *c = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                a.mul_add(b, *c)
            } else {
                a * b + *c
            };
        }
        c
    }

    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        each(a, b, larger)
    }

    #[inline(always)]
    fn where_positive(self, x: Self::Vector, a: Self::Vector, mut b: Self::Vector) -> Self::Vector {
        for (b, (x, a)) in b.iter_mut().zip(x.into_iter().zip(a)) {
            *b = if x > 0.0 { a } else { *b };
        }
        b
    }

    #[inline(always)]
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector {
        rounded.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(ONE)))
    }

    #[inline(always)]
    fn sum(self, xs: Self::Vector) -> f32 {
        by_halves(xs, |a, b| a + b)
    }

    #[inline(always)]
    fn largest(self, xs: Self::Vector) -> f32 {
        by_halves(xs, larger)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{HALF, LANES, Lanes, ONE};
    use pulp::x86::{V3, V4};
    use pulp::{Simd, cast, f32x8, f32x16};

    impl Lanes for V4 {
        type Vector = f32x16;

        const IS_ONE_REGISTER: bool = true;

        #[inline(always)]
        fn splat(self, x: f32) -> f32x16 {
            self.splat_f32s(x)
        }

        #[inline(always)]
        fn splat_halves(self, low: f32, high: f32) -> f32x16 {
            cast([[low; HALF], [high; HALF]])
        }

        #[inline(always)]
        fn load(self, xs: &[f32; LANES]) -> f32x16 {
            cast(*xs)
        }

        #[inline(always)]
        fn store(self, xs: f32x16, to: &mut [f32; LANES]) {
            *to = cast(xs);
        }

        #[inline(always)]
        fn store_half(self, xs: f32x16, to: &mut [f32; HALF]) {
            let [low, _high]: [f32x8; 2] = cast(xs);
            *to = cast(low);
        }

        #[inline(always)]
        fn add(self, a: f32x16, b: f32x16) -> f32x16 {
            self.add_f32s(a, b)
        }

        #[inline(always)]
        fn sub(self, a: f32x16, b: f32x16) -> f32x16 {
            self.sub_f32s(a, b)
        }

        #[inline(always)]
        fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
            self.mul_f32s(a, b)
        }

        #[inline(always)]
        fn div(self, a: f32x16, b: f32x16) -> f32x16 {
            self.div_f32s(a, b)
        }

        #[inline(always)]
        fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
            self.mul_add_f32s(a, b, c)
        }

        #[inline(always)]
        fn max(self, a: f32x16, b: f32x16) -> f32x16 {
            self.max_f32s(a, b)
        }

        #[inline(always)]
        fn where_positive(self, x: f32x16, a: f32x16, b: f32x16) -> f32x16 {
            self.select_f32s(self.less_than_f32s(self.splat_f32s(0.0), x), a, b)
        }

        #[inline(always)]
        fn power_of_two(self, rounded: f32x16) -> f32x16 {
            let n = self.shl_const_u32x16::<23>(cast(rounded));
            cast(self.add_u32s(n, self.splat_u32s(ONE)))
        }

        #[inline(always)]
        fn sum(self, xs: f32x16) -> f32 {
            self.reduce_sum_f32s(xs)
        }

        #[inline(always)]
        fn largest(self, xs: f32x16) -> f32 {
            self.reduce_max_f32s(xs)
        }
    }

    impl Lanes for V3 {
        type Vector = [f32x8; 2];

        const IS_ONE_REGISTER: bool = false;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::Vector {
            [self.splat_f32s(x); 2]
        }

        #[inline(always)]
        fn splat_halves(self, low: f32, high: f32) -> Self::Vector {
            [self.splat_f32s(low), self.splat_f32s(high)]
        }

        #[inline(always)]
        fn load(self, xs: &[f32; LANES]) -> Self::Vector {
            cast(*xs)
        }

        #[inline(always)]
        fn store(self, xs: Self::Vector, to: &mut [f32; LANES]) {
            *to = cast(xs);
        }

        #[inline(always)]
        fn store_half(self, xs: Self::Vector, to: &mut [f32; HALF]) {
            *to = cast(xs[0]);
        }

        #[inline(always)]
        fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.add_f32s(a[0], b[0]), self.add_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.sub_f32s(a[0], b[0]), self.sub_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.mul_f32s(a[0], b[0]), self.mul_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.div_f32s(a[0], b[0]), self.div_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            [self.mul_add_f32s(a[0], b[0], c[0]), self.mul_add_f32s(a[1], b[1], c[1])]
        }

        #[inline(always)]
        fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.max_f32s(a[0], b[0]), self.max_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn where_positive(self, x: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            let zero = self.splat_f32s(0.0);
            let positive = x.map(|x| self.less_than_f32s(zero, x));
            [self.select_f32s(positive[0], a[0], b[0]), self.select_f32s(positive[1], a[1], b[1])]
        }

        #[inline(always)]
        fn power_of_two(self, rounded: Self::Vector) -> Self::Vector {
            let [low, high]: [pulp::u32x8; 2] = cast(rounded);
            let (low, high) = (self.shl_const_u32x8::<23>(low), self.shl_const_u32x8::<23>(high));
            let one = self.splat_u32s(ONE);
            cast([self.add_u32s(low, one), self.add_u32s(high, one)])
        }

        #[inline(always)]
        fn sum(self, xs: Self::Vector) -> f32 {
            self.reduce_sum_f32s(self.add_f32s(xs[0], xs[1]))
        }

        #[inline(always)]
        fn largest(self, xs: Self::Vector) -> f32 {
            self.reduce_max_f32s(self.max_f32s(xs[0], xs[1]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, run_on_every_path};

    #[derive(Clone, Copy)]
    struct Reductions([f32; LANES]);

    impl Kernel for Reductions {
        type Output = [f32; 2];

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> [f32; 2] {
            let xs = lanes.load(&self.0);
            [lanes.sum(xs), lanes.largest(xs)]
        }
    }

    #[test]
    fn reductions_give_the_same_bits_on_every_path() {
        let xs = std::array::from_fn(|lane| (lane as f32 * 0.7).sin() / (1.0 + lane as f32));
        let want = Reductions(xs).run(Portable);
        for (path, got) in run_on_every_path(Reductions(xs)) {
            assert_eq!(got, want, "{path}");
        }
    }
}
