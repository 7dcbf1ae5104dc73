//! A linear map and its activation in one operation, so that the gradient between them is never stored.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::activation::relu_of_sums;
use crate::linear::{self, Linear, check};
use crate::{Activation, slices};

/// `y = activation(x Wᵀ + b)` over the last dimension.
///
/// PyTorch equivalent: `torch.relu(torch.nn.functional.linear(xs, weight, bias))`, or another activation.
///
/// # Shapes
/// `xs` (..., inputs), `weight` (outputs, inputs), `bias` (outputs) -> (..., outputs)
///
/// # Errors
/// If the shapes do not match, or the weight is empty.
pub fn linear_activation(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    check(xs, weight, Some(bias))?;
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) {
        return crate::cuda::linear_activation(xs, weight, bias, activation);
    }
    if !slices::fused(xs) {
        return composed::linear_activation(xs, weight, bias, activation);
    }
    let tracked = [xs, weight, bias].iter().any(|input| input.track_op());
    // ReLU's gradient needs only its outputs.
    let saves_inputs = tracked && activation != Activation::Relu;
    let op = LinearActivation { activation, saves_inputs, inputs: OnceLock::new() };
    xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

pub(crate) mod composed {
    use super::{Activation, Result, Tensor};
    use crate::composed::{gelu, linear, relu};

    /// [`linear_activation`](crate::linear_activation()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn linear_activation(
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        activation: Activation,
    ) -> Result<Tensor> {
        let ys = linear(xs, weight, Some(bias))?;
        match activation {
            Activation::Relu => relu(&ys),
            Activation::Gelu => gelu(&ys),
        }
    }
}

struct LinearActivation {
    activation: Activation,
    saves_inputs: bool,
    /// The activation's inputs, if its gradient needs them.
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
        let bias = slices::of_storage(bias, bias_layout)?;
        let product = |bias| {
            let xs_values = slices::of_storage(xs, xs_layout)?;
            let weight_values = slices::of_storage(weight, weight_layout)?;
            let (xs_shape, weight_shape) = (xs_layout.shape(), weight_layout.shape());
            Linear::forward(xs_values, xs_shape, weight_values, weight_shape, bias)
        };
        if self.activation == Activation::Relu {
            let (mut ys, dims) = product(None)?;
            relu_of_sums(&mut ys, bias);
            return slices::output(ys, dims);
        }
        let (mut ys, dims) = product(Some(bias))?;
        if self.saves_inputs {
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
        let grad = slices::upstream(grad)?;
        let grad = slices::read2(&grad, ys, |grad, ys| {
            let at = match self.activation {
                Activation::Relu => ys,
                Activation::Gelu => self.inputs.get().expect("the forward pass saved its inputs"),
            };
            Ok(self.activation.gradient(grad, at))
        })?;
        let (grad_xs, grad_weight) = Linear::backward(xs, weight, &grad)?;
        Ok((
            grad_xs,
            grad_weight,
            slices::gradient(linear::add_columns(&grad, bias.elem_count()), bias)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    const BOTH: [Activation; 2] = [Activation::Relu, Activation::Gelu];

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        let shapes: [(&[usize], usize, usize); 3] =
            [(&[1], 1, 1), (&[2, 16], 32, 128), (&[2, 3, 4], 49, 10)];
        for (leading, inputs, outputs) in shapes {
            let shape: Vec<usize> = leading.iter().copied().chain([inputs]).collect();
            let case = Case::new(&[&shape, &[outputs, inputs], &[outputs]])?;
            for activation in BOTH {
                case.fused_equals_composed(
                    |t| linear_activation(&t[0], &t[1], &t[2], activation),
                    |t| composed::linear_activation(&t[0], &t[1], &t[2], activation),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for activation in BOTH {
            Case::new(&[&[2, 3, 5], &[4, 5], &[4]])?.gradients_match_differences(|t| {
                composed::linear_activation(&t[0], &t[1], &t[2], activation)
            })?;
        }
        Ok(())
    }

    #[test]
    fn transposed_input_gives_the_same_result() -> Result<()> {
        Case::new(&[&[5, 6], &[3, 5], &[3]])?.fused_equals_composed(
            |t| linear_activation(&t[0].t()?, &t[1], &t[2], Activation::Gelu),
            |t| {
                let xs = t[0].t()?.contiguous()?;
                composed::linear_activation(&xs, &t[1], &t[2], Activation::Gelu)
            },
        )
    }

    #[test]
    fn empty_input_gives_empty_output() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[0, 4], &[3, 4], &[3]])?;
        assert_eq!(linear_activation(&xs, &weight, &bias, Activation::Relu)?.dims(), [0, 3]);
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_named() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[2, 4], &[3, 5], &[3]])?;
        let error = linear_activation(&xs, &weight, &bias, Activation::Relu).unwrap_err();
        assert!(error.to_string().contains("expected xs of shape (..., 5), got [2, 4]"), "{error}");
        Ok(())
    }
}
