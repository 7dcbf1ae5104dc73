//! The sum of two tensors on the GPU.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::launch::{Grid, elements, kernel, not_on_cpu, output, uninit};
use super::tape::apply2;

/// The shapes are the same.
pub(crate) fn add(xs: &Tensor, ys: &Tensor) -> Result<Tensor> {
    apply2(&xs.contiguous()?, &ys.contiguous()?, Add)
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("add")
    }

    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        ys: &CudaStorage,
        ys_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, len) = (&xs.device, xs_layout.shape().elem_count());
        let mut sum = uninit::<f32>(device, len)?;
        // As a tensor added to every sample of a batch of one.
        kernel!(device, ROWS, "add_each")
            .read(&elements::<f32>(xs, xs_layout)?)
            .read(&elements::<f32>(ys, ys_layout)?)
            .write(&mut sum)
            .long(len)
            .long(len)
            .launch(Grid::each(len))?;
        Ok(output(sum, device, xs_layout.shape()))
    }

    fn bwd(
        &self,
        _xs: &Tensor,
        _ys: &Tensor,
        _sum: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}
