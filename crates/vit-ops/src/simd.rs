//! Selects the kernels' vector instructions at run time.
//!
//! A kernel is a closure of plain Rust over slices, which the compiler vectorises, or a [`Kernel`] in [`Lanes`] if
//! registers matter. Either is inlined into one function per instruction set. Only products, exponentials and GELU
//! contract a product and a sum into one rounding, and none reorders a sum, so every path gives the same bits.

use std::sync::LazyLock;

use candle_core::{Result, bail};
use pulp::Arch;

use crate::lanes::{Lanes, Portable};

const NAMES: [&str; 3] = ["portable", "avx2", "avx512"];

/// This machine's best instruction set, or the available one that `VIT_SIMD` names.
static ARCH: LazyLock<Arch> = LazyLock::new(|| {
    check_instruction_set().unwrap_or_else(|error| panic!("{error}"));
    let asked = std::env::var("VIT_SIMD").unwrap_or_default();
    named(&asked).unwrap_or_default()
});

/// Checks that `VIT_SIMD`, if set, names an instruction set. Otherwise the operations panic.
///
/// # Errors
/// If it is not `portable`, `avx2` or `avx512`.
pub fn check_instruction_set() -> Result<()> {
    match std::env::var_os("VIT_SIMD") {
        Some(asked) if !asked.is_empty() && !NAMES.iter().any(|name| asked == *name) => {
            bail!("VIT_SIMD: expected portable, avx2 or avx512, got {asked:?}")
        }
        _ => Ok(()),
    }
}

/// The instruction set in use: `portable`, `avx2` or `avx512`. It does not change results. Products, exponentials and
/// GELU use fused multiply-add where the machine has it, also with `portable`; without it their last bits differ.
#[must_use]
pub fn instruction_set() -> &'static str {
    match *ARCH {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "avx512",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "avx2",
        _ => "portable",
    }
}

/// Runs a kernel, which must be inlined throughout, with the machine's vector instructions.
#[inline(always)]
pub(crate) fn dispatch<R>(kernel: impl FnOnce() -> R) -> R {
    ARCH.dispatch(kernel)
}

/// A kernel written in [`Lanes`]. It is a type, because a closure is not always inlined.
pub(crate) trait Kernel {
    /// The kernel's result.
    type Output;

    /// Runs it; `#[inline(always)]`.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs a kernel with the machine's vector instructions.
#[inline]
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    run_on(*ARCH, kernel)
}

/// The instruction set for kernels with [`Lanes::mul_add`]: with fused multiply-add where the machine has it, even if
/// `VIT_SIMD` names `portable`, which must not change a bit.
pub(crate) static FUSED: LazyLock<Arch> = LazyLock::new(|| match instruction_set() {
    "portable" => named("avx2").unwrap_or(*ARCH),
    _ => *ARCH,
});

/// Runs a kernel that uses [`Lanes::mul_add`].
#[inline]
pub(crate) fn run_fused<K: Kernel>(kernel: K) -> K::Output {
    run_on(*FUSED, kernel)
}

/// Never inlined, so a kernel is compiled once per instruction set.
#[inline(never)]
pub(crate) fn run_on<K: Kernel>(arch: Arch, kernel: K) -> K::Output {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(lanes) => lanes.vectorize(On { lanes, kernel }),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(lanes) => lanes.vectorize(On { lanes, kernel }),
        _ => kernel.run(Portable),
    }
}

/// A kernel and its lanes.
#[cfg(target_arch = "x86_64")]
struct On<L, K> {
    lanes: L,
    kernel: K,
}

#[cfg(target_arch = "x86_64")]
impl<L: Lanes, K: Kernel> pulp::NullaryFnOnce for On<L, K> {
    type Output = K::Output;

    #[inline(always)]
    fn call(self) -> K::Output {
        self.kernel.run(self.lanes)
    }
}

/// The instruction set of this name, if the machine has it.
fn named(name: &str) -> Option<Arch> {
    match name {
        "portable" => Some(Arch::Scalar),
        #[cfg(target_arch = "x86_64")]
        "avx2" => pulp::x86::V3::try_new().map(Arch::V3),
        #[cfg(target_arch = "x86_64")]
        "avx512" => pulp::x86::V4::try_new().map(Arch::V4),
        _ => None,
    }
}

/// The machine's instruction sets, for tests.
#[cfg(test)]
pub(crate) fn paths() -> impl Iterator<Item = (&'static str, Arch)> {
    NAMES.into_iter().filter_map(|name| Some((name, named(name)?)))
}

/// Checks that numbers are the same to the bit with every instruction set. Portable code may round twice where others
/// fuse.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_paths_agree(about: impl std::fmt::Debug, numbers: impl Fn(Arch) -> Vec<f32>) {
    let want = numbers(*FUSED);
    for (path, arch) in paths() {
        let got = numbers(arch);
        assert_eq!(got.len(), want.len(), "{path}, {about:?}");
        for (got, want) in got.into_iter().zip(&want) {
            let is_same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            let is_close = (got - want).abs() <= 1e-5 * want.abs().max(1.0);
            assert!(is_same || path == "portable" && is_close, "{path}, {about:?}: {got} {want}");
        }
    }
}

/// Runs a kernel with every instruction set of the machine.
#[cfg(test)]
pub(crate) fn run_on_every_path<K: Kernel + Copy>(kernel: K) -> Vec<(&'static str, K::Output)> {
    paths().map(|(name, arch)| (name, run_on(arch, kernel))).collect()
}
