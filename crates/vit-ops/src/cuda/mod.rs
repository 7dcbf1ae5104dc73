//! The operations on an NVIDIA GPU, and the pieces of a training step there.
//!
//! The public functions of this crate use these forms for `f32` tensors on a GPU. Every kernel sums in an order that
//! shapes alone decide, without atomic additions, so the same input gives the same bits on the same GPU. Kernels draw
//! the same dropout masks as the CPU.
//!
//! A step of a small model is many small kernels, and launching them takes longer than running them. [`Graph`] records
//! a step and repeats it with one launch. Kernels read what differs between steps from a [`Clock`] and from tables that
//! cover many steps.

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

/// The kernels' architecture, such as `sm_90a`.
pub const ARCHITECTURE: &str = env!("VIT_CUDA_ARCHITECTURE");

/// The version of the CUDA toolkit that compiled the kernels, such as `13.0`.
pub const TOOLKIT: &str = env!("VIT_CUDA_TOOLKIT");

/// Opens candle's device for this GPU with a separate stream, on which everything happens in order. Only such a stream
/// can be recorded in a [`Graph`]. Threads that take turns share it.
///
/// # Errors
/// If the GPU cannot be used. candle panics if the driver's library is missing, so check that first.
#[expect(unsafe_code, reason = "turning off event tracking is only sound with one stream")]
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    // SAFETY: tensors of this device are used on its single stream only, so none waits for another.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

/// Whether the forms of this module apply: non-empty `f32` on a GPU.
pub(crate) fn fused(xs: &Tensor) -> bool {
    xs.device().is_cuda() && xs.dtype() == DType::F32 && xs.elem_count() > 0
}

/// The kernels as PTX, which the driver compiles on first use.
#[expect(unreachable_pub, reason = "the build script generates `pub` items")]
mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}
