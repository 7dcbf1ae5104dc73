//! Dropout at one place of a model.

use candle_core::{Result, Tensor};
use vit_ops::{DropRate, Mode};
use vit_random::Site;

/// In training, each element becomes 0 with probability `rate` and else `x / (1 - rate)`.
///
/// The masks are a function of the mode's random source, the site and the sample's index, so two layers need
/// two sites. PyTorch equivalent: `torch.nn.Dropout(rate)`, with other masks.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    rate: DropRate,
    site: Site,
}

impl Dropout {
    /// A layer that draws its masks at `site`, such as the path of the layer in the model.
    #[must_use]
    pub fn new(rate: DropRate, site: &str) -> Self {
        Self { rate, site: Site::named(site) }
    }

    /// # Shapes
    /// `xs` (batch, ...) -> (batch, ...)
    ///
    /// # Errors
    /// If `xs` has no dimension.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Result<Tensor> {
        match mode {
            Mode::Eval => Ok(xs.clone()),
            Mode::Train(random) => vit_ops::dropout(xs, self.rate, self.site, &random),
        }
    }
}
