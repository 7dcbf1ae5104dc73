//! Parameter groups: optimiser settings for some of the parameters.

use crate::{Decay, Error, OptimizerConfig};

/// Optimiser settings of a parameter that differ from the others'.
///
/// A function chooses the group of each parameter from its name and value:
/// [`TrainerBuilder::groups`](crate::TrainerBuilder::groups),
/// [`Optimizer::with_groups`](crate::Optimizer::with_groups).
///
/// PyTorch equivalent: `param_groups`, and `requires_grad_(False)` for frozen ones.
///
/// ```
/// use candle_core::Tensor;
/// use vit_train::Group;
///
/// // The trunk learns at a tenth of the head's rate, positions have no weight decay, the embedding is frozen.
/// let groups = |name: &str, _value: &Tensor| match name {
///     "pos_embed" => Group::new().with_lr_scale(0.1).with_weight_decay(0.0),
///     name if name.starts_with("head.") => Group::new(),
///     name if name.starts_with("patch_embed.") => Group::frozen(),
///     _ => Group::new().with_lr_scale(0.1),
/// };
/// # let value = Tensor::new(1.0_f32, &candle_core::Device::Cpu)?;
/// assert!(groups("patch_embed.proj.weight", &value).frozen);
/// assert_eq!(groups("pos_embed", &value).weight_decay, Some(0.0));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Group {
    /// Factor of the learning rate. Default: 1.
    pub lr_scale: f64,
    /// Weight decay. Default: `None`, the optimiser's, on the parameters that its [`Decay`](crate::Decay) selects.
    pub weight_decay: Option<f64>,
    /// Whether the parameter is frozen: saved in checkpoints but not trained. Its backward pass is skipped if the
    /// trainer [builds](crate::TrainerBuilder::build) the model.
    pub frozen: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl Group {
    /// The optimiser's settings.
    #[must_use]
    pub const fn new() -> Self {
        Self { lr_scale: 1.0, weight_decay: None, frozen: false }
    }

    /// Frozen parameters.
    #[must_use]
    pub const fn frozen() -> Self {
        Self { frozen: true, ..Self::new() }
    }

    /// Sets the factor of the learning rate.
    #[must_use]
    pub const fn with_lr_scale(self, lr_scale: f64) -> Self {
        Self { lr_scale, ..self }
    }

    /// Sets the weight decay, overriding the optimiser's.
    #[must_use]
    pub const fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }

    /// Weight decay of a parameter with this number of dimensions.
    pub(crate) fn decay(&self, config: &OptimizerConfig, rank: usize) -> f64 {
        let acts = config.decay == Decay::All || rank > 1;
        self.weight_decay.unwrap_or(if acts { config.weight_decay } else { 0.0 })
    }

    /// Checks the ranges.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let settings = [
            ("lr_scale of a group", self.lr_scale),
            ("weight_decay of a group", self.weight_decay.unwrap_or(0.0)),
        ];
        match settings.into_iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite())) {
            None => Ok(()),
            Some((field, value)) => {
                Err(Error::Setting { field, expected: "of at least 0", value: value.to_string() })
            }
        }
    }
}
