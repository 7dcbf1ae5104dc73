//! The current step for kernels that a recorded graph repeats.

use std::cell::Cell;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{Device, Result};

thread_local! {
    /// The address of the clock that this thread's launches read; 0 for none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// A step counter in GPU memory, because a graph repeats kernel arguments as recorded.
///
/// It starts at the value it is [set](Self::set) to and advances when a step's [tally](super::Step::count) is taken. It
/// is added to the step of each [`Random`](vit_random::Random) used [while it runs](Self::during), so a recording draws
/// at step 0.
#[derive(Debug)]
pub struct Clock {
    device: CudaDevice,
    /// The step, and its index in the tables of the epoch.
    time: CudaSlice<u32>,
}

impl Clock {
    /// Creates a clock at step 0.
    ///
    /// # Errors
    /// If `device` is not a GPU, or is out of memory.
    pub fn new(device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let time = device.alloc_zeros(2)?;
        Ok(Self { device, time })
    }

    /// Sets the step, and its index in the tables of the epoch.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn set(&mut self, step: u32, index: u32) -> Result<()> {
        self.device.memcpy_htod(&[step, index], &mut self.time)
    }

    /// Runs `work`, whose kernels read this clock.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Restore(u64);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(self.pointer()));
        work()
    }

    /// Waits until all launched work is done.
    ///
    /// # Errors
    /// If any of it failed.
    pub fn wait(&self) -> Result<()> {
        self.device.cuda_stream().synchronize().w()?;
        Ok(())
    }

    pub(super) fn pointer(&self) -> u64 {
        self.time.device_ptr(&self.device.cuda_stream()).0
    }
}

/// The address of this thread's clock; 0 for none, which means step 0.
pub(super) fn current() -> u64 {
    CURRENT.get()
}
