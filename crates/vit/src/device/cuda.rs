//! NVIDIA GPUs. What is there is asked before candle is, which panics where there is no driver.

use candle_core::Device;
use vit_device::{Build, Gpu, Unusable};

use crate::failure::{Exit, Failure, Result};

/// The first GPU, which in CUDA's order is the fastest, where it can be used; else the CPU.
///
/// # Errors
/// If it is not known what this program was built for.
pub(super) fn open_any() -> Result<Device> {
    let device = find(0)?.map_err(|why| why.to_string()).and_then(|gpu| on(&gpu));
    Ok(device.unwrap_or_else(|why| {
        tracing::info!("computing on the CPU: {why}");
        Device::Cpu
    }))
}

/// This GPU.
///
/// # Errors
/// If it cannot be used: why, and what to do.
pub(super) fn open(ordinal: usize) -> Result<Device> {
    let failure = |why: String| Failure::new(Exit::Device, format!("cuda:{ordinal}: {why}"));
    let gpu = find(ordinal)?.map_err(|why| {
        failure(why.to_string()).hint(format!("{}; or pass --device cpu", why.hint()))
    })?;
    on(&gpu).map_err(|why| failure(why).hint(IN_USE))
}

/// A GPU in use.
pub(super) fn name(ordinal: usize) -> String {
    let gpu = vit_device::gpus().ok().and_then(|gpus| gpus.into_iter().nth(ordinal));
    gpu.map_or_else(|| format!("cuda:{ordinal}"), |gpu| gpu.to_string())
}

const IN_USE: &str = "look at what `nvidia-smi` says of this GPU, or pass --device cpu";

fn find(ordinal: usize) -> Result<std::result::Result<Gpu, Unusable>> {
    let build = Build::parse(vit_ops::cuda::ARCHITECTURE, vit_ops::cuda::TOOLKIT);
    let build = build.map_err(|error| {
        Failure::new(Exit::Internal, format!("this program's kernels: {error}"))
    })?;
    Ok(vit_device::find(ordinal, &build))
}

/// candle's device, which is told of; else why there is none, such as a GPU that is another program's alone.
fn on(gpu: &Gpu) -> std::result::Result<Device, String> {
    let device = vit_ops::cuda::open(gpu.ordinal).map_err(|error| {
        // What follows is a backtrace, where one was asked for.
        let said = error.to_string();
        format!("{} cannot be started: {}", gpu.name, said.lines().next().unwrap_or_default())
    })?;
    tracing::info!("computing on {gpu}");
    Ok(device)
}
