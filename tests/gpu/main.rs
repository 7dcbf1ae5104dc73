//! The tests that need an NVIDIA GPU, as one binary: `cargo xtask test-gpu` runs it, and carries it to a machine with one.

#[path = "../agreement.rs"]
mod agreement;
#[path = "../files.rs"]
mod files;
#[path = "../fixture.rs"]
mod fixture;

mod case;
mod digits;
mod operations;
mod pytorch;
mod steps;

use candle_core::Device;

/// The GPU that is tested, on a stream of the calling test's own: what one records is not what another launches.
fn gpu() -> Device {
    thread_local! {
        static GPU: Device =
            vit_ops::cuda::open(0).expect("a GPU, without which nothing is tested");
    }
    GPU.with(Device::clone)
}
