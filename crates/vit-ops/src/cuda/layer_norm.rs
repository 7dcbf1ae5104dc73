//! Layer normalisation on the GPU.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::launch::{Grid, device_of, elements, held, kernel, not_on_cpu, output, tensor, uninit};
use super::products::{column_sums, slices_of};
use super::tape::apply3;

/// The shapes are checked.
pub(crate) fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let op = LayerNorm { eps: eps as f32, rows: OnceLock::new() };
    apply3(&xs.contiguous()?, &weight.contiguous()?, &bias.contiguous()?, op)
}

struct LayerNorm {
    eps: f32,
    /// Mean and scale of each row.
    rows: OnceLock<Tensor>,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("layer norm")
    }

    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (shape, dim) = (xs_layout.shape(), weight_layout.shape().elem_count());
        let (device, rows) = (&xs.device, shape.elem_count() / dim);
        let mut ys = uninit::<f32>(device, rows * dim)?;
        let mut stats = uninit::<f32>(device, 2 * rows)?;
        kernel!(device, LAYER_NORM, "layer_norm")
            .read(&elements::<f32>(xs, xs_layout)?)
            .read(&elements::<f32>(weight, weight_layout)?)
            .read(&elements::<f32>(bias, bias_layout)?)
            .write(&mut ys)
            .write(&mut stats)
            .count(rows)
            .count(dim)
            .float(self.eps)
            .launch(Grid::warps(rows))?;
        // An operation runs forward once; its value lives in the graph until the backward pass.
        let _ = self.rows.set(tensor(stats, device, (rows, 2)));
        Ok(output(ys, device, shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let rows = self.rows.get().expect("the forward pass ran before the backward pass");
        let (device, grad, dim) = (device_of(xs)?, grad.contiguous()?, weight.elem_count());
        let (count, slices) = (rows.dim(0)?, slices_of(rows.dim(0)?));
        let mut grad_xs = uninit::<f32>(&device, count * dim)?;
        kernel!(&device, LAYER_NORM, "layer_norm_gradient")
            .read(&held(xs).elements::<f32>()?)
            .read(&held(weight).elements::<f32>()?)
            .read(&held(rows).elements::<f32>()?)
            .read(&held(&grad).elements::<f32>()?)
            .write(&mut grad_xs)
            .count(count)
            .count(dim)
            .launch(Grid::warps(count))?;
        let mut sums = uninit::<f32>(&device, slices * 2 * dim)?;
        kernel!(&device, LAYER_NORM, "layer_norm_parameters")
            .read(&held(xs).elements::<f32>()?)
            .read(&held(rows).elements::<f32>()?)
            .read(&held(&grad).elements::<f32>()?)
            .write(&mut sums)
            .count(count)
            .count(dim)
            .launch(Grid::blocks(dim.div_ceil(8), slices).of(8, 128))?;
        if slices > 1 {
            sums = column_sums(&device, &sums, (slices, 2 * dim))?;
        }
        let sums = tensor(sums, &device, (2, dim));
        Ok((
            Some(tensor(grad_xs, &device, xs.shape())),
            Some(sums.get(0)?),
            Some(sums.get(1)?.reshape(bias.shape())?),
        ))
    }
}
