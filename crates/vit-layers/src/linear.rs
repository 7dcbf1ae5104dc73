//! The linear layer, initialised like PyTorch's.

use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use vit_ops::{Activation, Affine, Mode};

use crate::Dropout;
use crate::layer_path::LayerPath;

/// Whether a [`Linear`] adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `y = x Wᵀ + b`
    Yes,
    /// `y = x Wᵀ`
    No,
}

impl From<bool> for Bias {
    fn from(bias: bool) -> Self {
        if bias { Self::Yes } else { Self::No }
    }
}

/// `y = x Wᵀ + b`.
///
/// Weight and bias are initialised uniformly in `±1 / sqrt(inputs)`. candle-nn's `linear` starts 2.45 times wider.
/// PyTorch equivalent: `torch.nn.Linear(inputs, outputs, bias)`.
///
/// # Parameters
/// `weight` (outputs, inputs), `bias` (outputs)
#[derive(Clone, Debug)]
pub struct Linear {
    path: LayerPath,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Creates a layer from `inputs` to `outputs` features.
    ///
    /// # Errors
    /// If a size is zero, or `vb` lacks a parameter or has another shape.
    pub fn new(inputs: usize, outputs: usize, bias: Bias, vb: &VarBuilder) -> Result<Self> {
        let path = LayerPath::with_parameters("linear", vb)?;
        if inputs == 0 || outputs == 0 {
            bail!("{path}: expected at least one input and output, got {inputs} and {outputs}");
        }
        let bound = (inputs as f64).powf(-0.5);
        let init = Init::Uniform { lo: -bound, up: bound };
        let bias = match bias {
            Bias::Yes => Some(vb.get_with_hints(outputs, "bias", init)?),
            Bias::No => None,
        };
        let weight = vb.get_with_hints((outputs, inputs), "weight", init)?;
        Ok(Self { path, weight, bias })
    }
}

impl Linear {
    pub(crate) fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Stores the weight transposed, as a constant.
    pub(crate) fn transpose_weight(&mut self) -> Result<()> {
        self.weight = self.weight.detach().t()?.contiguous()?.t()?;
        Ok(())
    }

    /// As a part of an encoder's stage.
    pub(crate) fn affine(&self) -> Affine<'_> {
        Affine { weight: &self.weight, bias: self.bias.as_ref() }
    }

    /// `activation(x Wᵀ + b)`, as one operation if there is a bias.
    pub(crate) fn forward_activated(&self, xs: &Tensor, activation: Activation) -> Result<Tensor> {
        self.path.check_features(xs, &self.weight)?;
        match &self.bias {
            Some(bias) => vit_ops::linear_activation(xs, &self.weight, bias, activation),
            None => activation.forward(&self.forward(xs)?),
        }
    }
}

impl Linear {
    /// The linear map with dropout of its output.
    pub(crate) fn forward_dropped(
        &self,
        xs: &Tensor,
        drop: &Dropout,
        mode: Mode,
    ) -> Result<Tensor> {
        match (mode, &self.bias) {
            (Mode::Train(random), Some(bias)) => {
                self.path.check_features(xs, &self.weight)?;
                vit_ops::linear_dropout(xs, (&self.weight, bias), drop.drawn(), &random)
            }
            _ => drop.forward(&self.forward(xs)?, mode),
        }
    }
}

impl Module for Linear {
    /// # Shapes
    /// `xs` (..., inputs) -> (..., outputs)
    ///
    /// # Errors
    /// If `xs` has another width or dtype.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.path.check_features(xs, &self.weight)?;
        vit_ops::linear(xs, &self.weight, self.bias.as_ref())
    }
}
