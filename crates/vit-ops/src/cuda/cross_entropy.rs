//! Cross entropy on the GPU. Labels are not validated; an out-of-range label gives a NaN loss.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::launch::{
    ByValue, Grid, device_of, elements, held, kernel, not_on_cpu, output, tensor, uninit,
};
use super::tape::apply1;

/// The shapes are already checked, and the batch is not empty.
pub(crate) fn smoothed_cross_entropy_sum(
    logits: &Tensor,
    labels: &Tensor,
    smoothing: f64,
) -> Result<Tensor> {
    let (_batch, classes) = logits.dims2()?;
    let spread = (smoothing / classes as f64) as f32;
    let target = Target { of_label: (1.0 - smoothing) as f32, spread };
    apply1(&logits.contiguous()?, CrossEntropy { labels: labels.contiguous()?, target })
}

/// The target probabilities: of the label's class, and added to every class.
#[derive(Clone, Copy)]
#[repr(C)]
struct Target {
    of_label: f32,
    spread: f32,
}

#[expect(unsafe_code, reason = "the kernels' declaration is the same")]
// SAFETY: two floats in the kernels' order.
unsafe impl ByValue for Target {}

struct CrossEntropy {
    labels: Tensor,
    target: Target,
}

/// Threads that share a row.
const fn threads_of_row(classes: usize) -> usize {
    if classes <= 32 { 1 } else { 32 }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("cross entropy")
    }

    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (batch, classes) = layout.shape().dims2()?;
        let (device, width) = (&logits.device, threads_of_row(classes));
        let threads = (batch * width).next_multiple_of(32).min(1024);
        let mut loss = uninit::<f32>(device, 1)?;
        kernel!(device, CROSS_ENTROPY, "cross_entropy")
            .read(&elements::<f32>(logits, layout)?)
            .read(&held(&self.labels).elements::<u32>()?)
            .write(&mut loss)
            .count(batch)
            .count(classes)
            .value(self.target)
            .count(width)
            .launch(Grid::blocks(1, 1).of(threads as u32, 1))?;
        Ok(output(loss, device, ()))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (batch, classes) = logits.dims2()?;
        let (device, width) = (device_of(logits)?, threads_of_row(classes));
        let mut grad_logits = uninit::<f32>(&device, batch * classes)?;
        kernel!(&device, CROSS_ENTROPY, "cross_entropy_gradient")
            .read(&held(logits).elements::<f32>()?)
            .read(&held(&self.labels).elements::<u32>()?)
            .read(&held(grad).elements::<f32>()?)
            .write(&mut grad_logits)
            .count(batch)
            .count(classes)
            .value(self.target)
            .count(width)
            .launch(Grid::each(batch * width))?;
        Ok(Some(tensor(grad_logits, &device, logits.shape())))
    }
}
