//! Drop path (stochastic depth, Huang et al., arXiv 1603.09382): drops whole branches per sample.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{DropRate, Mode, dropout_mask};
use vit_random::Site;

use crate::IntoPass;
use crate::dropout::check_rate;
use crate::layer_path::LayerPath;

/// In training, each sample's branch becomes 0 with probability `rate`, otherwise `x / (1 - rate)`.
///
/// PyTorch equivalent: `timm.layers.DropPath(rate)`, with other masks.
#[derive(Clone, Debug)]
pub struct DropPath {
    path: LayerPath,
    rate: DropRate,
    site: Site,
}

impl DropPath {
    /// Creates a layer that draws its masks at the path of `vb`. It has no parameters.
    ///
    /// # Errors
    /// If `rate` is not in `[0, 1)`.
    pub fn new(rate: f64, vb: &VarBuilder) -> Result<Self> {
        let (rate, site) = (check_rate("drop path", rate, vb)?, Site::named(&vb.prefix()));
        Ok(Self { path: LayerPath::of("drop path", vb), rate, site })
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
        let Mode::Train(random) = pass.into_pass().mode() else { return Ok(xs.clone()) };
        if self.rate.is_zero() {
            return Ok(xs.clone());
        }
        let batch = self.path.check_batch(xs)?;
        let mut shape = vec![1; xs.rank()];
        shape[0] = batch;
        let mask = dropout_mask(&shape, self.rate, self.site, &random, xs.dtype(), xs.device())?;
        xs.broadcast_mul(&mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use vit_random::Random;

    #[test]
    fn sample_is_kept_or_dropped_whole() -> Result<()> {
        let xs = Tensor::ones((64, 3, 5), DType::F32, &Device::Cpu)?;
        let drop = DropPath::new(0.5, &VarBuilder::zeros(DType::F32, &Device::Cpu).pp("test"))?;
        let ys = drop.forward(&xs, Mode::Train(Random::new(1)))?.to_vec3::<f32>()?;
        let firsts: Vec<f32> = ys.iter().map(|sample| sample[0][0]).collect();
        assert!(firsts.contains(&0.0) && firsts.contains(&2.0));
        for (sample, first) in ys.iter().zip(firsts) {
            assert!(sample.iter().flatten().all(|&y| y == first));
        }
        assert_eq!(drop.forward(&xs, Mode::Eval)?.to_vec3::<f32>()?, xs.to_vec3::<f32>()?);
        Ok(())
    }
}
