//! Layer normalisation with a learned scale and shift.

use candle_core::{Module, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use crate::layer_path::LayerPath;

/// `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias` over the last dimension.
///
/// candle-nn's `LayerNorm` cuts the gradient. PyTorch equivalent: `torch.nn.LayerNorm(dim, eps)`.
///
/// # Parameters
/// `weight` (dim), initially ones; `bias` (dim), initially zeros
#[derive(Clone, Debug)]
pub struct LayerNorm {
    path: LayerPath,
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Creates a layer over tokens of width `dim`.
    ///
    /// # Errors
    /// If `eps` is not positive, or `vb` lacks a parameter or has another shape.
    pub fn new(dim: usize, eps: f64, vb: &VarBuilder) -> Result<Self> {
        let path = LayerPath::with_parameters("layer norm", vb)?;
        if !(eps > 0.0 && eps.is_finite()) {
            bail!("{path}: expected a positive eps, got {eps}");
        }
        let weight = vb.get_with_hints(dim, "weight", Init::Const(1.0))?;
        let bias = vb.get_with_hints(dim, "bias", Init::Const(0.0))?;
        Ok(Self { path, weight, bias, eps })
    }
}

impl LayerNorm {
    /// As a stage of an encoder.
    pub(crate) fn norm(&self) -> vit_ops::Norm<'_> {
        vit_ops::Norm { weight: &self.weight, bias: &self.bias, eps: self.eps }
    }
}

impl Module for LayerNorm {
    /// # Shapes
    /// `xs` (..., dim) -> (..., dim)
    ///
    /// # Errors
    /// If `xs` has another width or dtype.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.path.check_features(xs, &self.weight)?;
        vit_ops::layer_norm(xs, &self.weight, &self.bias, self.eps)
    }
}
