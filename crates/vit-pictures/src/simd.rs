//! The machine's vector instructions, chosen when the program runs.

use std::sync::LazyLock;

use pulp::Arch;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::default);

/// Runs a kernel, which must be inlined into its caller all the way down, with the machine's vector instructions. Kernels
/// compute with integers, or round each product and sum, so that every machine gives the same pixels.
#[inline(always)]
pub(crate) fn dispatch<R>(kernel: impl FnOnce() -> R) -> R {
    ARCH.dispatch(kernel)
}
