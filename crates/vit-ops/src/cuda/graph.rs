//! Work recorded once and repeated with one launch.
#![expect(
    unsafe_code,
    reason = "a recording is sent between threads, which CUDA allows one at a time"
)]

use candle_core::cuda_backend::cudarc::driver::{
    CudaGraph,
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{Device, Error, Result};

/// Kernels with their arguments, as a CUDA graph.
///
/// The work's allocations are made once for all repetitions, so its tensors must not outlive it.
pub struct Graph {
    graph: CudaGraph,
    /// Keeps the modules with the kernels alive.
    _device: CudaDevice,
}

// SAFETY: CUDA requires sequential calls on a graph, from any thread; every call here takes `&mut self`.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl Graph {
    /// Runs `work` once to warm up, and records it a second time without running it.
    ///
    /// `work` must launch the same kernels both times. Meanwhile no other thread may launch on this device or open one.
    /// Shapes that candle uploads the first time stay on the GPU as long as this thread runs.
    ///
    /// # Errors
    /// If `work` fails, waits for the GPU or reads from it, or leaves nothing to repeat.
    pub fn warmed_up<E: From<candle_core::Error>>(
        device: &Device,
        mut work: impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        let device = device.as_cuda_device()?.clone();
        let _uploads_stay = device.enable_cuda_graph_htod_cache();
        work()?;
        Ok(Self { graph: record(&device, work)?, _device: device })
    }

    /// Launches one repetition after earlier work.
    ///
    /// # Safety
    /// All memory that the work read or wrote, but did not allocate itself, must not have moved, and the recording
    /// thread must still run.
    ///
    /// # Errors
    /// If the GPU fails.
    pub unsafe fn launch(&mut self) -> Result<()> {
        self.graph.launch().w()?;
        Ok(())
    }
}

fn record<E: From<candle_core::Error>>(
    device: &CudaDevice,
    mut work: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<CudaGraph, E> {
    let stream = device.cuda_stream();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).w()?;
    let done = work();
    // Even after a failure, or the stream would keep recording.
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags);
    done?;
    match graph.w()? {
        Some(graph) => Ok(graph),
        None => Err(Error::Msg("graph: expected work on the GPU, got none".to_owned()).into()),
    }
}
