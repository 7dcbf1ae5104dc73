//! Linear maps on the GPU, with their activation or dropout.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::dropout::Drawn;
use super::launch::{Grid, begin, device_of, elements, held, kernel, not_on_cpu, tensor, uninit};
use super::products::{self, Epilogue};
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
    // ReLU's gradient needs only its outputs.
    let saves_inputs = tracked && activation != Activation::Relu;
    let op = Linear::new(Some(activation), saves_inputs);
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
    /// The dropout of the output, if any.
    drawn: Option<Drawn>,
    saves_inputs: bool,
    /// The activation's inputs, if its gradient needs them.
    inputs: OnceLock<Tensor>,
}

impl Linear {
    const fn new(activation: Option<Activation>, saves_inputs: bool) -> Self {
        Self { activation, drawn: None, saves_inputs, inputs: OnceLock::new() }
    }

    fn forward(
        &self,
        xs: (&CudaStorage, &Layout),
        weight: (&CudaStorage, &Layout),
        bias: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (outputs, inputs) = weight.1.shape().dims2()?;
        let mut dims = xs.1.dims().to_vec();
        dims.pop();
        dims.push(outputs);
        let shape = Shape::from(dims);
        let (device, len) = (&xs.0.device, shape.elem_count());
        let saved = self.saves_inputs.then(|| uninit::<f32>(device, len)).transpose()?;
        let bias = bias.map(|(bias, layout)| elements::<f32>(bias, layout)).transpose()?;
        let epilogue = Epilogue {
            bias: bias.as_ref().map_or(0, |bias| begin(bias, device)),
            inputs: saved.as_ref().map_or(0, |saved| begin(saved, device)),
            activation: number(self.activation),
            sample_len: self.drawn.map_or(0, |_| len / shape.dims()[0]) as u32,
        };
        let drawn = self.drawn.unwrap_or_else(Drawn::nothing);
        let ys =
            products::forward(xs, weight, (len / outputs, inputs, outputs), (epilogue, drawn))?;
        if let Some(saved) = saved {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.inputs.set(tensor(saved, device, len));
        }
        Ok((ys, shape))
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
            Activation::Gelu => self.inputs.get().expect("the forward pass saved its inputs"),
        };
        let (device, len) = (device_of(&grad)?, grad.elem_count());
        let mut before = uninit::<f32>(&device, len)?;
        kernel!(&device, LINEAR, "activation_gradient")
            .read(&held(&grad).elements::<f32>()?)
            .read(&held(at).elements::<f32>()?)
            .write(&mut before)
            .long(len)
            .count(number(Some(activation)) as usize)
            .launch(Grid::each(len))?;
        Ok(tensor(before, &device, (len / outputs, outputs)))
    }
}

/// The kernels' number of an activation.
const fn number(activation: Option<Activation>) -> u32 {
    match activation {
        None => 0,
        Some(Activation::Relu) => 1,
        Some(Activation::Gelu) => 2,
    }
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
        self.forward((xs, xs_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = self.before_activation(ys, grad)?;
        let of_xs = xs.track_op().then(|| products::input_gradient(&grad, weight, xs.shape()));
        let (of_weight, _of_no_bias) = products::parameter_gradients(&grad, xs)?;
        Ok((of_xs.transpose()?, Some(of_weight)))
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
        let bias = Some((bias, bias_layout));
        self.forward((xs, xs_layout), (weight, weight_layout), bias)
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
        let of_xs = xs.track_op().then(|| products::input_gradient(&grad, weight, xs.shape()));
        let (of_weight, of_bias) = products::parameter_gradients(&grad, xs)?;
        Ok((of_xs.transpose()?, Some(of_weight), Some(of_bias.reshape(bias.shape())?)))
    }
}
