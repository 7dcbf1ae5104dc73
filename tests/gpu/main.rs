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

use std::sync::LazyLock;

use candle_core::Device;

/// The GPU that is tested.
fn gpu() -> &'static Device {
    static GPU: LazyLock<Device> =
        LazyLock::new(|| vit_ops::cuda::open(0).expect("a GPU, without which nothing is tested"));
    &GPU
}
