//! The tests that need an NVIDIA GPU, as one binary: `cargo xtask test-gpu` runs it, and carries it to a machine with one.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

#[path = "../agreement.rs"]
mod agreement;
#[path = "../files.rs"]
mod files;
#[path = "../fixture.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod fixture;
#[path = "../support.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod support;

mod case;
mod digits;
mod operations;
mod program;
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
