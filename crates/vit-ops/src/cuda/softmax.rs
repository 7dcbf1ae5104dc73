//! Softmax over the last dimension on the GPU.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::launch::{Grid, device_of, elements, held, kernel, not_on_cpu, output, tensor, uninit};
use super::tape::apply1;

/// `xs` has a dimension.
pub(crate) fn softmax(xs: &Tensor) -> Result<Tensor> {
    let width = xs.dims()[xs.rank() - 1];
    apply1(&xs.contiguous()?, Softmax { width })
}

struct Softmax {
    width: usize,
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("softmax")
    }

    fn cuda_fwd(&self, xs: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, len) = (&xs.device, layout.shape().elem_count());
        let rows = len / self.width;
        let mut ys = uninit::<f32>(device, len)?;
        kernel!(device, SOFTMAX, "softmax")
            .read(&elements::<f32>(xs, layout)?)
            .write(&mut ys)
            .count(rows)
            .count(self.width)
            .launch(Grid::warps(rows))?;
        Ok(output(ys, device, layout.shape()))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, len, grad) = (device_of(xs)?, xs.elem_count(), grad.contiguous()?);
        let rows = len / self.width;
        let mut grad_xs = uninit::<f32>(&device, len)?;
        kernel!(&device, SOFTMAX, "softmax_gradient")
            .read(&held(ys).elements::<f32>()?)
            .read(&held(&grad).elements::<f32>()?)
            .write(&mut grad_xs)
            .count(rows)
            .count(self.width)
            .launch(Grid::warps(rows))?;
        Ok(Some(tensor(grad_xs, &device, xs.shape())))
    }
}
