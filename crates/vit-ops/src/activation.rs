//! The activations between the two linear maps of a feed-forward.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use serde::{Deserialize, Serialize};

use crate::slices;

/// An elementwise function, with PyTorch's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`, with gradient 0 at 0 (candle's is 1) and NaN kept.
    /// PyTorch equivalent: `torch.relu`.
    Relu,
    /// `x Φ(x) = x (1 + erf(x / √2)) / 2` (Hendrycks, Gimpel, arXiv 1606.08415).
    /// PyTorch equivalent: `torch.nn.functional.gelu(xs, approximate="none")`.
    Gelu,
}

impl Activation {
    /// Applies the function to each element.
    ///
    /// # Shapes
    /// `xs` (...) -> (...)
    ///
    /// # Errors
    /// If candle cannot compute it on the tensor's device and dtype.
    pub fn forward(self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu if slices::fused(xs) => xs.contiguous()?.apply_op1(Relu),
            Self::Relu => composed::relu(xs),
            Self::Gelu => composed::gelu(xs),
        }
    }
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use std::f64::consts::FRAC_1_SQRT_2;

    /// [`Activation::Relu`](crate::Activation::Relu) out of candle's tensor operations.
    ///
    /// # Errors
    /// If candle cannot compute it on the tensor's device and dtype.
    pub fn relu(xs: &Tensor) -> Result<Tensor> {
        let zeros = xs.zeros_like()?;
        xs.le(&zeros)?.where_cond(&zeros, xs)
    }

    /// [`Activation::Gelu`](crate::Activation::Gelu) out of candle's tensor operations; candle's own
    /// `gelu_erf` has a constant of six digits in its gradient.
    ///
    /// # Errors
    /// If candle cannot compute it on the tensor's device and dtype.
    pub fn gelu(xs: &Tensor) -> Result<Tensor> {
        (xs * 0.5)? * ((xs * FRAC_1_SQRT_2)?.erf()? + 1.0)?
    }
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = slices::of_storage(xs, layout)?;
        let ys = xs.iter().map(|&x| if x <= 0.0 { 0.0 } else { x }).collect();
        slices::output(ys, layout.shape().clone())
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let values = slices::read(&grad, |grad| {
            slices::read(ys, |ys| {
                Ok(grad.iter().zip(ys).map(|(&g, &y)| if y <= 0.0 { 0.0 } else { g }).collect())
            })
        })?;
        slices::gradient(values, xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;
    use candle_core::{Device, Var};

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for len in 1..20 {
            Case::new(&[&[len]])?.fused_equals_composed(
                |t| Activation::Relu.forward(&t[0]),
                |t| composed::relu(&t[0]),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_are_those_of_finite_differences() -> Result<()> {
        Case::new(&[&[4, 5]])?.gradients_match_differences(|t| composed::relu(&t[0]))?;
        Case::new(&[&[4, 5]])?.gradients_match_differences(|t| composed::gelu(&t[0]))
    }

    #[test]
    fn relu_at_zero_and_nan_is_pytorchs() -> Result<()> {
        for form in [composed::relu, |xs: &Tensor| Activation::Relu.forward(xs)] {
            let xs = Var::new(&[-1.0_f32, -0.0, 0.0, 2.0, f32::NAN], &Device::Cpu)?;
            let ys = form(&xs)?;
            let grads = ys.backward()?;
            let grad = grads.get(&xs).expect("relu has a gradient").to_vec1::<f32>()?;
            assert_eq!(&ys.to_vec1::<f32>()?[..4], [0.0, 0.0, 0.0, 2.0]);
            assert!(ys.to_vec1::<f32>()?[4].is_nan());
            assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 1.0]);
        }
        Ok(())
    }

    #[test]
    fn gelu_is_the_one_by_the_error_function() -> Result<()> {
        let xs = Tensor::new(&[-3.0_f64, -0.5, 0.0, 1.0], &Device::Cpu)?;
        // torch.nn.functional.gelu in float64.
        let want =
            [-0.004_049_694_094_890_29, -0.154_268_769_362_993_46, 0.0, 0.841_344_746_068_542_9];
        for (got, want) in Activation::Gelu.forward(&xs)?.to_vec1::<f64>()?.iter().zip(want) {
            assert!((got - want).abs() < 1e-15, "{got} {want}");
        }
        Ok(())
    }
}
