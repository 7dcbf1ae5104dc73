//! Work that is recorded once and repeated with one launch.
#![expect(
    unsafe_code,
    reason = "a recording is sent between threads, which CUDA allows one at a time"
)]

use candle_core::cuda_backend::cudarc::driver::{
    CudaGraph,
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{Device, Result, bail};

/// Kernels with their arguments, as a CUDA graph.
///
/// What the work allocates is allocated once for all repetitions, so nothing that it makes may outlive it, and what
/// it reads and writes besides must stay where it is for as long as the graph is launched.
pub struct Graph {
    graph: CudaGraph,
}

// SAFETY: CUDA wants calls on a graph to come one after the other, which `&mut self` of every call here says; it does
// not matter from which thread.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl Graph {
    /// Runs `work` once to learn what it asks of the host, and records it a second time without running it.
    ///
    /// `work` must launch the same both times, and no other thread may launch anything on this device meanwhile. candle uploads shapes as it goes; what was uploaded the first time stays
    /// on the GPU for the recording.
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
        Ok(Self { graph: record(&device, work)? })
    }

    /// Puts one repetition behind what was launched before.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn launch(&mut self) -> Result<()> {
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
    // Also after a failure: the stream would go on recording.
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags);
    done?;
    match graph.w()? {
        Some(graph) => Ok(graph),
        None => Err(empty().into()),
    }
}

fn empty() -> candle_core::Error {
    let nothing = || -> Result<()> { bail!("graph: expected work on the GPU, got none") };
    nothing().expect_err("it always fails")
}
