//! LayerScale (Touvron et al., *Going deeper with Image Transformers*, arXiv 2103.17239, eq. 7).

use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::layer_path::LayerPath;

/// `y = gamma ∘ x` over the last dimension: a learned scale of a branch's features, initially small.
///
/// PyTorch equivalent: `timm.layers.LayerScale(dim, init_values)`.
///
/// # Parameters
/// `gamma` (dim), initially `init`
#[derive(Clone, Debug)]
pub struct LayerScale {
    path: LayerPath,
    gamma: Tensor,
}

impl LayerScale {
    /// Creates a layer over tokens of width `dim`.
    ///
    /// # Errors
    /// If `vb` lacks the parameter or has another shape.
    pub fn new(dim: usize, init: f64, vb: &VarBuilder) -> Result<Self> {
        let path = LayerPath::with_parameters("layer scale", vb)?;
        let gamma = vb.get_with_hints(dim, "gamma", Init::Const(init))?;
        Ok(Self { path, gamma })
    }
}

impl LayerScale {
    /// The factor of each feature.
    pub(crate) fn gamma(&self) -> &Tensor {
        &self.gamma
    }
}

impl Module for LayerScale {
    /// # Shapes
    /// `xs` (..., dim) -> (..., dim)
    ///
    /// # Errors
    /// If `xs` has another width or dtype.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.path.check_features(xs, &self.gamma)?;
        vit_ops::scale_features(xs, &self.gamma)
    }
}
