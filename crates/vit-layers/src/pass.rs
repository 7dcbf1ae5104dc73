//! What a forward pass of a layer is told besides its tokens.

use vit_ops::{AttentionDropout, DropRate, Mode, TokenMask};
use vit_random::Site;

/// A forward pass: its mode, and which tokens are padding.
///
/// Whatever takes a pass takes a [`Mode`] alone too, for sequences without padding.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vit_layers::{Encoder, EncoderConfig, Mode, Parameters, Pass, TokenMask};
///
/// # fn main() -> candle_core::Result<()> {
/// let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
/// let encoder = Encoder::new(&EncoderConfig::new(8, 1, 2), &vb)?;
/// let xs = Tensor::zeros((2, 5, 8), DType::F32, &Device::Cpu)?; // the first sequence has 3 tokens, the second 5
/// let mask = TokenMask::from_lengths(&[3, 5], 5)?;
/// let ys = encoder.forward(&xs, Pass::from(Mode::Eval).masked(&mask))?;
/// assert_eq!(ys.dims(), [2, 5, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    mode: Mode,
    mask: Option<&'a TokenMask>,
}

impl From<Mode> for Pass<'_> {
    fn from(mode: Mode) -> Self {
        Self { mode, mask: None }
    }
}

impl<'a> Pass<'a> {
    /// The same pass over sequences with padding.
    #[must_use]
    pub const fn masked(self, mask: &'a TokenMask) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// What the pass is for.
    #[must_use]
    pub const fn mode(self) -> Mode {
        self.mode
    }

    /// The tokens that are there; without one, all.
    #[must_use]
    pub const fn mask(self) -> Option<&'a TokenMask> {
        self.mask
    }

    /// How attention weights are dropped at a site.
    pub(crate) fn dropout(self, (rate, site): (DropRate, Site)) -> Option<AttentionDropout> {
        match self.mode {
            Mode::Eval => None,
            Mode::Train(random) => Some(AttentionDropout { rate, site, random }),
        }
    }
}
