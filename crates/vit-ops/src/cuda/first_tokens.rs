//! The first tokens of each sample on the GPU.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::launch::{Grid, device_of, elements, held, kernel, not_on_cpu, output, tensor, uninit};
use super::tape::apply1;

/// `xs` has at least `count` tokens.
pub(crate) fn first_tokens(xs: &Tensor, count: usize) -> Result<Tensor> {
    apply1(&xs.contiguous()?, FirstTokens { count })
}

struct FirstTokens {
    count: usize,
}

impl CustomOp1 for FirstTokens {
    fn name(&self) -> &'static str {
        "first-tokens"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("first tokens")
    }

    fn cuda_fwd(&self, xs: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (batch, tokens, dim) = layout.shape().dims3()?;
        let (device, len) = (&xs.device, batch * self.count * dim);
        let mut ys = uninit::<f32>(device, len)?;
        kernel!(device, ROWS, "take_first")
            .read(&elements::<f32>(xs, layout)?)
            .write(&mut ys)
            .long(len)
            .count(self.count * dim)
            .count(tokens * dim)
            .launch(Grid::each(len))?;
        Ok(output(ys, device, (batch, self.count, dim)))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_batch, tokens, dim) = xs.dims3()?;
        let (device, len, grad) = (device_of(xs)?, xs.elem_count(), grad.contiguous()?);
        let mut grad_xs = uninit::<f32>(&device, len)?;
        kernel!(&device, ROWS, "put_first")
            .read(&held(&grad).elements::<f32>()?)
            .write(&mut grad_xs)
            .long(len)
            .count(self.count * dim)
            .count(tokens * dim)
            .launch(Grid::each(len))?;
        Ok(Some(tensor(grad_xs, &device, xs.shape())))
    }
}
