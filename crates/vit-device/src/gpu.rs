//! The GPUs of a machine, and whether a build can use one.

use std::fmt;

use crate::driver::Driver;
use crate::version::dotted;
use crate::{Build, Unusable, libraries};

/// An NVIDIA GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its place in the driver's order, from 0.
    pub ordinal: usize,
    /// Its product name.
    pub name: String,
    /// Its compute capability.
    pub compute_capability: (u32, u32),
    /// Its memory in bytes.
    pub memory: u64,
    /// The newest CUDA version that its driver supports.
    pub driver_cuda: (u32, u32),
}

impl fmt::Display for Gpu {
    /// `cuda:0, NVIDIA H100 80GB HBM3 (compute capability 9.0, driver for CUDA 13.0)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ordinal, name, compute_capability, driver_cuda, .. } = self;
        let (capability, cuda) = (dotted(*compute_capability), dotted(*driver_cuda));
        write!(
            f,
            "cuda:{ordinal}, {name} (compute capability {capability}, driver for CUDA {cuda})"
        )
    }
}

/// Lists all GPUs, at least one.
///
/// # Errors
/// If there is none, or no working driver.
pub fn gpus() -> Result<Vec<Gpu>, Unusable> {
    let driver = Driver::start()?;
    let count = driver.count()?;
    if count == 0 {
        return Err(Unusable::NoGpu);
    }
    (0..count).map(|ordinal| driver.gpu(ordinal)).collect()
}

/// Returns the GPU of this ordinal if the build can use it.
///
/// # Errors
/// If there is no such GPU or no working driver, or the build needs another GPU, a newer driver or missing libraries.
pub fn find(ordinal: usize, build: &Build) -> Result<Gpu, Unusable> {
    let mut gpus = gpus()?;
    if ordinal >= gpus.len() {
        return Err(Unusable::NoSuchGpu { asked: ordinal, count: gpus.len() });
    }
    let gpu = gpus.swap_remove(ordinal);
    gpu.check(build)?;
    libraries::check(build.toolkit)?;
    Ok(gpu)
}

impl Gpu {
    fn check(&self, build: &Build) -> Result<(), Unusable> {
        // Compiled code accepts a newer toolkit of the same major number. candle's kernels are PTX, which only a driver
        // of that toolkit's version or a newer one compiles.
        if self.driver_cuda < build.toolkit {
            return Err(Unusable::OldDriver { driver: self.driver_cuda, toolkit: build.toolkit });
        }
        if !build.runs_on(self.compute_capability) {
            return Err(Unusable::ComputeCapability {
                gpu: self.name.clone(),
                compute_capability: self.compute_capability,
                architecture: build.architecture.clone(),
            });
        }
        Ok(())
    }
}
