//! Vector instructions, selected at run time.

use std::sync::LazyLock;

use pulp::Arch;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::default);

/// Runs a kernel with the machine's vector instructions; all its callees must be inlined. Kernels use integers, or
/// round each product and sum, so every machine gives the same pixels.
#[inline(always)]
pub(crate) fn dispatch<R>(kernel: impl FnOnce() -> R) -> R {
    ARCH.dispatch(kernel)
}
