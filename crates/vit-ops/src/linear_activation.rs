//! A linear map and the activation behind it in one operation, so that the gradient between them is never stored.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::linear::{Linear, check};
use crate::{Activation, linear, slices};

/// `y = activation(x Wᵀ + b)` over the last dimension.
///
/// PyTorch equivalent: `torch.relu(torch.nn.functional.linear(xs, weight, bias))`, and so with the others.
///
/// # Shapes
/// `xs` (..., inputs), `weight` (outputs, inputs), `bias` (outputs) -> (..., outputs)
///
/// # Errors
/// If the shapes do not fit, or the weight is empty.
pub fn linear_activation(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    check(xs, weight, Some(bias))?;
    if !slices::fused(xs) {
        return activation.forward(&linear(xs, weight, Some(bias))?);
    }
    let tracked = [xs, weight, bias].iter().any(|input| input.track_op());
    // The gradient of ReLU can be had from its outputs.
    let keeps_inputs = tracked && activation != Activation::Relu;
    let op = LinearActivation { activation, keeps_inputs, inputs: OnceLock::new() };
    xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

struct LinearActivation {
    activation: Activation,
    keeps_inputs: bool,
    /// What the activation was applied to, where its gradient needs that.
    inputs: OnceLock<Vec<f32>>,
}

impl CustomOp3 for LinearActivation {
    fn name(&self) -> &'static str {
        "linear-activation"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (mut ys, dims) = Linear::forward(
            slices::of_storage(xs, xs_layout)?,
            xs_layout.shape(),
            slices::of_storage(weight, weight_layout)?,
            weight_layout.shape(),
            Some(slices::of_storage(bias, bias_layout)?),
        )?;
        if self.keeps_inputs {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.inputs.set(ys.clone());
        }
        self.activation.replace(&mut ys);
        slices::output(ys, dims)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let grad = slices::read2(&grad, ys, |grad, ys| {
            Ok(self.activation.gradient(grad, self.inputs.get().map_or(ys, Vec::as_slice)))
        })?;
        let gradients = Linear::backward(xs, weight, &grad)?;
        Ok((gradients.xs, gradients.weight, slices::gradient(gradients.bias, bias)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composed;
    use crate::testing::{Case, tensors};

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        let shapes: [(&[usize], usize, usize); 3] =
            [(&[1], 1, 1), (&[2, 16], 32, 128), (&[2, 3, 4], 49, 10)];
        for (leading, inputs, outputs) in shapes {
            let shape: Vec<usize> = leading.iter().copied().chain([inputs]).collect();
            let case = Case::new(&[&shape, &[outputs, inputs], &[outputs]])?;
            case.fused_equals_composed(
                |t| linear_activation(&t[0], &t[1], &t[2], Activation::Relu),
                |t| composed::relu(&composed::linear(&t[0], &t[1], Some(&t[2]))?),
            )?;
            case.fused_equals_composed(
                |t| linear_activation(&t[0], &t[1], &t[2], Activation::Gelu),
                |t| composed::gelu(&composed::linear(&t[0], &t[1], Some(&t[2]))?),
            )?;
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[2, 4], &[3, 5], &[3]])?;
        let error = linear_activation(&xs, &weight, &bias, Activation::Relu).unwrap_err();
        assert!(error.to_string().contains("expected xs of shape (..., 5), got [2, 4]"), "{error}");
        Ok(())
    }
}
