//! Adds one tensor to every sample on the GPU.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::launch::{Grid, device_of, elements, held, kernel, not_on_cpu, output, tensor, uninit};
use super::products::column_sums;
use super::tape::apply2;

/// The shapes are checked.
pub(crate) fn add_each(xs: &Tensor, shared: &Tensor) -> Result<Tensor> {
    apply2(&xs.contiguous()?, &shared.contiguous()?, AddEach)
}

struct AddEach;

impl CustomOp2 for AddEach {
    fn name(&self) -> &'static str {
        "add-each"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("add each")
    }

    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        shared: &CudaStorage,
        shared_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, len) = (&xs.device, xs_layout.shape().elem_count());
        let mut ys = uninit::<f32>(device, len)?;
        kernel!(device, ROWS, "add_each")
            .read(&elements::<f32>(xs, xs_layout)?)
            .read(&elements::<f32>(shared, shared_layout)?)
            .write(&mut ys)
            .long(len)
            .long(shared_layout.shape().elem_count())
            .launch(Grid::each(len))?;
        Ok(output(ys, device, xs_layout.shape()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        shared: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_shared = || {
            let (device, grad, len) = (device_of(xs)?, grad.contiguous()?, shared.elem_count());
            let grad = held(&grad);
            let sums = column_sums(&device, &grad.elements::<f32>()?, (xs.dim(0)?, len))?;
            Ok::<_, candle_core::Error>(tensor(sums, &device, shared.shape()))
        };
        Ok((Some(grad.clone()), shared.track_op().then(of_shared).transpose()?))
    }
}
