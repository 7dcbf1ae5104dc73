//! How many threads compute.

use candle_core::Device;

/// As many as asked for, else one for each core; on a GPU, which one keeps busy, one.
pub(crate) fn threads_on(device: &Device, asked: Option<u16>) -> usize {
    if device.is_cpu() { threads(asked) } else { 1 }
}

/// As many as asked for, else one for each core.
pub(crate) fn threads(asked: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.map_or_else(cores, usize::from)
}
