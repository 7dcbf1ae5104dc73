//! The operations on an NVIDIA GPU.

/// The architecture that the kernels were compiled for, such as `sm_90a`.
pub const ARCHITECTURE: &str = env!("VIT_CUDA_ARCHITECTURE");

/// The version of the toolkit that compiled them, such as `13.0`.
pub const TOOLKIT: &str = env!("VIT_CUDA_TOOLKIT");
