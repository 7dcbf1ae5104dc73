//! The number of computing threads.

use candle_core::Device;

/// As requested, else one for each core; on a GPU, which one thread keeps busy, one.
pub(crate) fn threads_on(device: &Device, asked: Option<u16>) -> usize {
    if device.is_cpu() { threads(asked) } else { 1 }
}

/// As requested, else one for each core.
pub(crate) fn threads(asked: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.map_or_else(cores, usize::from)
}
