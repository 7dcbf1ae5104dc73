//! The operations on an NVIDIA GPU, and what a training step needs there beside them.
//!
//! The public functions of this crate take these forms for `f32` tensors on a GPU. Every kernel adds in an order that
//! shapes alone decide, without atomic additions: the same input gives the same bits on the same GPU. Masks are drawn by
//! the kernels, and are those of the CPU.
//!
//! A step of a small model is many small kernels, and launching them takes longer than running them. [`Graph`] records a
//! step once and repeats it with one launch; what differs from step to step is then read by the kernels from a
//! [`Clock`], and from tables that cover many steps.

mod add;
mod add_each;
mod attention;
mod clock;
mod cross_entropy;
mod dropout;
mod examples;
mod first_tokens;
mod graph;
mod launch;
mod layer_norm;
mod linear;
mod optimizer;
mod patchify;
mod products;
mod softmax;
mod tape;

use candle_core::{DType, Device, Result, Tensor};

pub(crate) use self::add::add;
pub(crate) use self::add_each::add_each;
pub(crate) use self::attention::{AttentionInputs, attention, suits};
pub use self::clock::Clock;
pub(crate) use self::cross_entropy::smoothed_cross_entropy_sum;
pub(crate) use self::dropout::{dropout, dropout_mask};
pub use self::examples::Examples;
pub(crate) use self::first_tokens::first_tokens;
pub use self::graph::Graph;
pub(crate) use self::layer_norm::layer_norm;
pub(crate) use self::linear::{linear, linear_activation, linear_dropout};
pub use self::optimizer::{AdamSlot, AdamUpdate, Fault, Step, Tally};
pub(crate) use self::patchify::{Patches, patchify};
pub(crate) use self::softmax::softmax;
pub use self::tape::Tape;

/// The architecture that the kernels were compiled for, such as `sm_90a`.
pub const ARCHITECTURE: &str = env!("VIT_CUDA_ARCHITECTURE");

/// The version of the toolkit that compiled them, such as `13.0`.
pub const TOOLKIT: &str = env!("VIT_CUDA_TOOLKIT");

/// candle's device for the GPU of this number, with a stream of its own on which everything happens in order: only
/// such a stream can be recorded in a [`Graph`], and threads that take turns share it.
///
/// # Errors
/// If the GPU cannot be used. Where the driver's library is missing, candle panics: look for it first.
#[expect(unsafe_code, reason = "candle marks what holds for one stream only as unsafe")]
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    // SAFETY: tensors of this device are used on its one stream only, so none waits for another.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

/// Whether the forms of this module apply: `f32` on a GPU, and something to compute.
pub(crate) fn fused(xs: &Tensor) -> bool {
    xs.device().is_cuda() && xs.dtype() == DType::F32 && xs.elem_count() > 0
}

/// The kernels, as PTX that the driver compiles when they are first used.
#[expect(unreachable_pub, reason = "the build script writes it so")]
mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}
