//! Parameter groups: settings of the optimiser for some parameters.

use crate::{Decay, Error, OptimizerConfig};

/// The optimiser's settings for a parameter, where they differ from those of all.
///
/// A function chooses the group of each parameter, by its name and value:
/// [`TrainerBuilder::groups`](crate::TrainerBuilder::groups), [`Optimizer::with_groups`](crate::Optimizer::with_groups).
///
/// PyTorch equivalent: `param_groups`, and `requires_grad_(False)` for frozen ones.
///
/// ```
/// use candle_core::Tensor;
/// use vit_train::Group;
///
/// // The trunk learns ten times slower than the head, positions do not decay, the embedding stays as it is.
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
    /// What the learning rate is multiplied by. Default: 1.
    pub lr_scale: f64,
    /// The weight decay. Default: none, for the optimiser's, on the parameters that its
    /// [`Decay`](crate::Decay) names.
    pub weight_decay: Option<f64>,
    /// Whether training leaves the parameter alone. It stands in checkpoints, and its backward pass is not computed where
    /// the trainer [builds](crate::TrainerBuilder::build) the model.
    pub frozen: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl Group {
    /// The optimiser's settings as they are.
    #[must_use]
    pub const fn new() -> Self {
        Self { lr_scale: 1.0, weight_decay: None, frozen: false }
    }

    /// Parameters that are not trained.
    #[must_use]
    pub const fn frozen() -> Self {
        Self { frozen: true, ..Self::new() }
    }

    /// The same with this factor of the learning rate.
    #[must_use]
    pub const fn with_lr_scale(self, lr_scale: f64) -> Self {
        Self { lr_scale, ..self }
    }

    /// The same with this weight decay, whatever the optimiser's.
    #[must_use]
    pub const fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }

    /// The weight decay of a parameter of this rank.
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
