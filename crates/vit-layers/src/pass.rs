//! The options of a forward pass: mode, mask, causality, bias.

use candle_core::Tensor;
use vit_ops::{DropRate, DropoutSource, Mode, TokenMask};
use vit_random::Site;

/// The options of a forward pass: its mode, and which tokens attend to which.
///
/// Every layer's `forward` takes a pass, or just a [`Mode`] if all tokens attend to all.
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
/// let bias = Tensor::zeros((1, 2, 5, 5), DType::F32, &Device::Cpu)?; // (batch or 1, heads or 1, tokens, tokens)
/// let pass = Pass::from(Mode::Eval).masked(&mask).causal().biased(&bias);
/// assert_eq!(encoder.forward(&xs, pass)?.dims(), [2, 5, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    mode: Mode,
    mask: Option<&'a TokenMask>,
    causal: bool,
    bias: Option<&'a Tensor>,
}

/// A [`Pass`], or a [`Mode`] that stands for one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how a forward pass runs",
    label = "expected a `Mode` or a `Pass`",
    note = "evaluate with `Mode::Eval`, train with `Mode::Train(Random::new(seed).at_step(step))`",
    note = "with a padding mask: `Pass::from(mode).masked(&mask)`; with a causal one: `Pass::from(mode).causal()`"
)]
pub trait IntoPass<'a> {
    /// The pass.
    fn into_pass(self) -> Pass<'a>;
}

impl<'a> IntoPass<'a> for Pass<'a> {
    fn into_pass(self) -> Self {
        self
    }
}

impl<'a> IntoPass<'a> for Mode {
    fn into_pass(self) -> Pass<'a> {
        self.into()
    }
}

impl From<Mode> for Pass<'_> {
    fn from(mode: Mode) -> Self {
        Self { mode, mask: None, causal: false, bias: None }
    }
}

impl<'a> Pass<'a> {
    /// Adds a padding mask.
    #[must_use]
    pub const fn masked(self, mask: &'a TokenMask) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// Makes the pass causal: each token attends to itself and earlier tokens only.
    ///
    /// PyTorch equivalent: `is_causal=True`.
    #[must_use]
    pub const fn causal(self) -> Self {
        Self { causal: true, ..self }
    }

    /// Adds a bias to the scaled scores of every attention. A learned bias gets its gradient.
    ///
    /// PyTorch equivalent: a float `attn_mask`.
    ///
    /// # Shapes
    /// `bias` (batch or 1, heads or 1, queries, tokens)
    #[must_use]
    pub const fn biased(self, bias: &'a Tensor) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// The mode.
    #[must_use]
    pub const fn mode(self) -> Mode {
        self.mode
    }

    /// The padding mask, if any.
    #[must_use]
    pub const fn mask(self) -> Option<&'a TokenMask> {
        self.mask
    }

    /// Whether the pass is causal.
    #[must_use]
    pub const fn is_causal(self) -> bool {
        self.causal
    }

    /// The score bias, if any.
    #[must_use]
    pub const fn bias(self) -> Option<&'a Tensor> {
        self.bias
    }

    /// The dropout at a site in this pass.
    pub(crate) fn dropout(self, (rate, site): (DropRate, Site)) -> Option<DropoutSource> {
        match self.mode {
            Mode::Eval => None,
            Mode::Train(random) => Some(DropoutSource { rate, site, random }),
        }
    }
}
