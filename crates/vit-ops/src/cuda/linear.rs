//! Linear maps on the GPU: candle's products through cuBLAS, then bias and activation in one pass.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::dropout::Drawn;
use super::launch::{Grid, device_of, elements, held, kernel, not_on_cpu, room, tensor};
use super::tape::{apply2, apply3};
use crate::{Activation, DropRate};
use vit_random::{Random, Site};

/// `y = x Wᵀ + b`; the shapes are checked.
pub(crate) fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => apply3(&xs, &weight, &bias.contiguous()?, Linear::new(None, false)),
        None => apply2(&xs, &weight, Linear::new(None, false)),
    }
}

/// `y = activation(x Wᵀ + b)`; the shapes are checked.
pub(crate) fn linear_activation(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    let tracked = [xs, weight, bias].iter().any(|input| input.track_op());
    // The gradient of ReLU can be had from its outputs.
    let keeps_inputs = tracked && activation != Activation::Relu;
    let op = Linear::new(Some(activation), keeps_inputs);
    apply3(&xs.contiguous()?, &weight.contiguous()?, &bias.contiguous()?, op)
}

/// `y = dropout(x Wᵀ + b)`; the shapes are checked, and `xs` has samples.
pub(crate) fn linear_dropout(
    xs: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    (rate, site): (DropRate, Site),
    random: &Random,
) -> Result<Tensor> {
    let drawn = Some(Drawn::new(rate, site, random));
    let op = Linear { drawn, ..Linear::new(None, false) };
    apply3(&xs.contiguous()?, &weight.contiguous()?, &bias.contiguous()?, op)
}

struct Linear {
    activation: Option<Activation>,
    /// What is dropped of the output.
    drawn: Option<Drawn>,
    keeps_inputs: bool,
    /// What the activation was applied to, where its gradient needs that.
    inputs: OnceLock<Tensor>,
}

impl Linear {
    const fn new(activation: Option<Activation>, keeps_inputs: bool) -> Self {
        Self { activation, drawn: None, keeps_inputs, inputs: OnceLock::new() }
    }

    /// `x Wᵀ`, and its shape.
    fn product(
        (xs, xs_layout): (&CudaStorage, &Layout),
        (weight, weight_layout): (&CudaStorage, &Layout),
    ) -> Result<(CudaStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let rows = xs_layout.shape().elem_count() / inputs;
        let matrix = Layout::contiguous_with_offset((rows, inputs), xs_layout.start_offset());
        let transposed = weight_layout.transpose(0, 1)?;
        let ys = xs.matmul(weight, (1, rows, outputs, inputs), &matrix, &transposed)?;
        let mut dims = xs_layout.dims().to_vec();
        dims.pop();
        dims.push(outputs);
        Ok((ys, dims.into()))
    }

    /// `dx = dy W`, if xs is tracked, and `dW = dyᵀ x`, of `grad` (rows, outputs).
    fn backward(xs: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let (rows, _outputs) = grad.dims2()?;
        let matrix = xs.detach().reshape((rows, ()))?;
        let of_xs = || grad.matmul(&weight.detach())?.reshape(xs.shape());
        Ok((xs.track_op().then(of_xs).transpose()?, grad.t()?.matmul(&matrix)?))
    }

    /// `dy` before the activation, as (rows, outputs).
    fn before_activation(&self, ys: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let outputs = grad.dims()[grad.rank() - 1];
        let grad = grad.contiguous()?;
        if let Some(drawn) = &self.drawn {
            let masked =
                drawn.masked(&device_of(&grad)?, &held(&grad).elements::<f32>()?, grad.dims())?;
            return Ok(tensor(masked, &device_of(&grad)?, (grad.elem_count() / outputs, outputs)));
        }
        let Some(activation) = self.activation else { return grad.reshape(((), outputs)) };
        let at = match activation {
            Activation::Relu => ys,
            Activation::Gelu => self.inputs.get().expect("the forward pass kept its inputs"),
        };
        let (device, len) = (device_of(&grad)?, grad.elem_count());
        let mut before = room::<f32>(&device, len)?;
        kernel!(&device, LINEAR, "activation_gradient")
            .read(&held(&grad).elements::<f32>()?)
            .read(&held(at).elements::<f32>()?)
            .write(&mut before)
            .long(len)
            .count(number(Some(activation)))
            .launch(Grid::each(len))?;
        Ok(tensor(before, &device, (len / outputs, outputs)))
    }
}

/// What the kernels call an activation.
const fn number(activation: Option<Activation>) -> usize {
    match activation {
        None => 0,
        Some(Activation::Relu) => 1,
        Some(Activation::Gelu) => 2,
    }
}

/// Rows that one block adds up.
const ROWS: usize = 2048;

/// Slices that rows are cut into where they are added up, by their number alone.
pub(super) fn slices_of(rows: usize) -> usize {
    const MOST: usize = 128;
    rows.div_ceil(ROWS).min(MOST)
}

/// `sum_i x_ij` over the rows.
pub(super) fn column_sums(
    device: &CudaDevice,
    xs: &impl DevicePtr<f32>,
    (rows, columns): (usize, usize),
) -> Result<CudaSlice<f32>> {
    let slices = slices_of(rows);
    let mut sums = room::<f32>(device, slices * columns)?;
    kernel!(device, LINEAR, "column_sums")
        .read(xs)
        .write(&mut sums)
        .count(rows)
        .count(columns)
        .launch(Grid::blocks(columns.div_ceil(8), slices).of(8, 128))?;
    if slices == 1 { Ok(sums) } else { column_sums(device, &sums, (slices, columns)) }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("linear")
    }

    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Self::product((xs, xs_layout), (weight, weight_layout))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = self.before_activation(ys, grad)?;
        let (of_xs, of_weight) = Self::backward(xs, weight, &grad)?;
        Ok((of_xs, Some(of_weight)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        not_on_cpu("linear")
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
        let (mut ys, shape) = Self::product((xs, xs_layout), (weight, weight_layout))?;
        let (device, len) = (ys.device.clone(), shape.elem_count());
        let drawn = self.drawn.unwrap_or_else(Drawn::nothing);
        // Of no numbers, where nothing is dropped.
        let sample_len = self.drawn.map_or(0, |_| len / shape.dims()[0]);
        let mut inputs = self.keeps_inputs.then(|| room::<f32>(&device, len)).transpose()?;
        kernel!(&device, LINEAR, "bias_activation")
            .write(ys.as_cuda_slice_mut::<f32>()?)
            .read(&elements::<f32>(bias, bias_layout)?)
            .write_if(inputs.as_mut())
            .long(len)
            .count(bias_layout.shape().elem_count())
            .count(number(self.activation))
            .count(sample_len)
            .value(drawn.draw)
            .pointer(drawn.clock)
            .launch(Grid::each(len))?;
        if let Some(inputs) = inputs {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.inputs.set(tensor(inputs, &device, len));
        }
        Ok((ys, shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = self.before_activation(ys, grad)?;
        let (of_xs, of_weight) = Self::backward(xs, weight, &grad)?;
        let device = device_of(&grad)?;
        let of_bias = column_sums(&device, &held(&grad).elements::<f32>()?, grad.dims2()?)?;
        Ok((of_xs, Some(of_weight), Some(tensor(of_bias, &device, bias.shape()))))
    }
}
