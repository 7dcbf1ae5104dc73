//! Dropout.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use vit_ops::{DropRate, Mode};
use vit_random::Site;

use crate::IntoPass;
use crate::layer_path::LayerPath;

/// In training, each element becomes 0 with probability `rate`, otherwise `x / (1 - rate)`.
///
/// Masks are a function of the mode's random source, the layer's path and the sample's index, so each layer needs its
/// own path. PyTorch equivalent: `torch.nn.Dropout(rate)`, with other masks.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vit_layers::{Dropout, Mode, Parameters, Random};
///
/// # fn main() -> candle_core::Result<()> {
/// let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
/// let drop = Dropout::new(0.5, &vb.pp("drop"))?;
/// let xs = Tensor::ones((4, 100), DType::F32, &Device::Cpu)?;
/// let ys = drop.forward(&xs, Mode::Train(Random::new(7).at_step(1)))?;
/// assert!(ys.flatten_all()?.to_vec1::<f32>()?.iter().all(|&y| y == 0.0 || y == 2.0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Dropout {
    path: LayerPath,
    rate: DropRate,
    site: Site,
}

impl Dropout {
    /// Creates a layer that draws its masks at the path of `vb`. It has no parameters.
    ///
    /// # Errors
    /// If `rate` is not in `[0, 1)`.
    pub fn new(rate: f64, vb: &VarBuilder) -> Result<Self> {
        let (rate, site) = (check_rate("dropout", rate, vb)?, Site::named(&vb.prefix()));
        Ok(Self { path: LayerPath::of("dropout", vb), rate, site })
    }

    /// The rate and site of the masks.
    pub(crate) const fn drawn(&self) -> (DropRate, Site) {
        (self.rate, self.site)
    }

    /// # Shapes
    /// `xs` (batch, ...) -> (batch, ...)
    ///
    /// # Errors
    /// If `xs` has no dimension.
    pub fn forward<'a>(&self, xs: &Tensor, pass: impl IntoPass<'a>) -> Result<Tensor> {
        match pass.into_pass().mode() {
            Mode::Eval => Ok(xs.clone()),
            Mode::Train(random) => {
                self.path.check_batch(xs)?;
                vit_ops::dropout(xs, self.rate, self.site, &random)
            }
        }
    }
}

pub(crate) fn check_rate(kind: &str, rate: f64, vb: &VarBuilder) -> Result<DropRate> {
    match DropRate::new(rate) {
        Some(rate) => Ok(rate),
        None => bail!("{}: expected a rate in [0, 1), got {rate}", LayerPath::of(kind, vb)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn invalid_rate_is_named_with_its_layer() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let error = Dropout::new(1.0, &vb.pp("head.drop")).unwrap_err().to_string();
        assert!(error.contains("head.drop: expected a rate in [0, 1), got 1"), "{error}");
    }
}
