//! Which vector instructions the kernels are compiled for, chosen when the program runs.
//!
//! A kernel is plain Rust over slices, inlined into one function for each instruction set. No kernel contracts a
//! product and a sum into one rounding or reorders a sum, so that every path gives the same bits.

use std::sync::LazyLock;

use pulp::Arch;

/// The best instruction set of this machine, unless `VIT_SIMD` names another: `portable`, `avx2` or `avx512`.
static ARCH: LazyLock<Arch> = LazyLock::new(|| {
    let asked = std::env::var("VIT_SIMD").unwrap_or_default();
    named(&asked).unwrap_or_default()
});

/// Runs a kernel, which must be inlined into its caller all the way down, with the machine's vector instructions.
#[inline(always)]
pub(crate) fn dispatch<R>(kernel: impl FnOnce() -> R) -> R {
    ARCH.dispatch(kernel)
}

/// The instruction set of this name, where the machine has it.
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

/// Runs a kernel on every path that the machine has, for tests.
#[cfg(test)]
pub(crate) fn on_every_path<R>(kernel: impl Fn() -> R) -> Vec<(&'static str, R)> {
    let names = ["portable", "avx2", "avx512"];
    names.into_iter().filter_map(|name| Some((name, named(name)?.dispatch(&kernel)))).collect()
}
