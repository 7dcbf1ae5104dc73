//! Without the feature `cuda`, only the CPU.

use candle_core::Device;

use crate::failure::{Exit, Failure, Result};

pub(super) fn open_any() -> Result<Device> {
    Ok(Device::Cpu)
}

pub(super) fn open(ordinal: usize) -> Result<Device> {
    let message = format!("cuda:{ordinal}: this program is built without CUDA");
    let hint = "build it with `cargo xtask train --cuda` or `cargo install --path crates/vit --features cuda`, or pass \
                --device cpu";
    Err(Failure::new(Exit::Device, message).hint(hint))
}

pub(super) fn name(ordinal: usize) -> String {
    format!("cuda:{ordinal}")
}
