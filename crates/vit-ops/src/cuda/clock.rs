//! The step that kernels are in, where a recorded graph repeats them.

use std::cell::Cell;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{Device, Result};

thread_local! {
    /// Where the clock lies that launches of this thread read; 0 for none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// A step that kernels read from the GPU's memory, since their arguments are repeated as they were recorded.
///
/// A step counts from whatever it is [set](Self::set) to, and by one at a time when a step's
/// [tally](super::Step::count) is taken. It is added to the step of each [`Random`](vit_random::Random) that is drawn
/// from [while it runs](Self::during), so a recording draws at step 0.
#[derive(Debug)]
pub struct Clock {
    device: CudaDevice,
    /// The step, and its index in the tables of the epoch.
    time: CudaSlice<u32>,
}

impl Clock {
    /// A clock at step 0.
    ///
    /// # Errors
    /// If `device` is no GPU, or has no room.
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

    /// Waits until everything that was launched has been done.
    ///
    /// # Errors
    /// If something of it failed.
    pub fn wait(&self) -> Result<()> {
        self.device.cuda_stream().synchronize().w()?;
        Ok(())
    }

    pub(super) fn pointer(&self) -> u64 {
        self.time.device_ptr(&self.device.cuda_stream()).0
    }
}

/// Where the clock of this thread lies; 0 for none, which stands still at step 0.
pub(super) fn current() -> u64 {
    CURRENT.get()
}
