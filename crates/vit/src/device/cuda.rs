//! NVIDIA GPUs, probed before candle is used, which panics without a driver.

use candle_core::Device;
use vit_device::{Build, Gpu, Unusable};

use crate::failure::{Exit, Failure, Result};

/// The first GPU, CUDA's fastest, if it is usable; else the CPU.
///
/// # Errors
/// If the build's target is unknown.
pub(super) fn open_any() -> Result<Device> {
    let device = find(0)?.map_err(|why| why.to_string()).and_then(|gpu| on(&gpu));
    Ok(device.unwrap_or_else(|why| {
        tracing::info!("computing on the CPU: {why}");
        Device::Cpu
    }))
}

/// A given GPU.
///
/// # Errors
/// If it is not usable; the error has the reason and advice.
pub(super) fn open(ordinal: usize) -> Result<Device> {
    let failure = |why: String| Failure::new(Exit::Device, format!("cuda:{ordinal}: {why}"));
    let gpu = find(ordinal)?.map_err(|why| {
        failure(why.to_string()).hint(format!("{}; or pass --device cpu", why.hint()))
    })?;
    on(&gpu).map_err(|why| failure(why).hint(IN_USE))
}

/// The GPU's name.
pub(super) fn name(ordinal: usize) -> String {
    let gpu = vit_device::gpus().ok().and_then(|gpus| gpus.into_iter().nth(ordinal));
    gpu.map_or_else(|| format!("cuda:{ordinal}"), |gpu| gpu.to_string())
}

const IN_USE: &str = "check this GPU with `nvidia-smi`, or pass --device cpu";

fn find(ordinal: usize) -> Result<std::result::Result<Gpu, Unusable>> {
    let build = Build::parse(vit_ops::cuda::ARCHITECTURE, vit_ops::cuda::TOOLKIT);
    let build = build.map_err(|error| {
        Failure::new(Exit::Internal, format!("this program's kernels: {error}"))
    })?;
    Ok(vit_device::find(ordinal, &build))
}

/// candle's device, after logging its name; else the reason, such as a GPU reserved by another program.
fn on(gpu: &Gpu) -> std::result::Result<Device, String> {
    let device = vit_ops::cuda::open(gpu.ordinal).map_err(|error| {
        // Only the first line: a backtrace may follow.
        let said = error.to_string();
        format!("{} cannot be started: {}", gpu.name, said.lines().next().unwrap_or_default())
    })?;
    tracing::info!("computing on {gpu}");
    Ok(device)
}
