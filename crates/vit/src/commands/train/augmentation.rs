//! The augmentation flags of `vit train`.

use clap::{Args, ValueEnum};
use vit_data::{Augment, Policy};

/// Random changes of the training images, different in each epoch: the fields of [`vit_data::Augment`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Augmentation")]
pub(crate) struct Augmentation {
    /// Shift by up to PX pixels, at least 0, horizontally and vertically [default: 0]
    #[arg(long, value_name = "PX", allow_negative_numbers = true)]
    pub(crate) augment_shift: Option<f64>,
    /// Rotate by up to this, either way, 0 to 180 [default: 0]
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true)]
    pub(crate) augment_rotation: Option<f64>,
    /// Scale up by up to this share, at least 0, or down by the inverse [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_scale: Option<f64>,
    /// Shear by up to this, either way, 0 to 80 [default: 0]
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true)]
    pub(crate) augment_shear: Option<f64>,
    /// Elastic displacement: move the nodes of a 5x5 grid by up to PX pixels, at least 0
    /// [default: 0]
    #[arg(long, value_name = "PX", allow_negative_numbers = true)]
    pub(crate) augment_elastic: Option<f64>,
    /// Random erasing: probability that a rectangle of 2 to 20 % of the image becomes black, 0 to 1 [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_erase: Option<f64>,
    /// Mixup: mix each image and label with another's; weights follow Beta(F, F), such as 0.2; 0 is off;
    /// CPU only [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_mixup: Option<f64>,
    /// CutMix: paste a rectangle of another image; its area follows Beta(F, F), such as 1; 0 is off; CPU
    /// only [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_cutmix: Option<f64>,
    /// Random resized crop: smallest share of the area, 0 to 1, such as 0.35; 0 is off
    /// [default: the preset's]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_crop_scale: Option<f64>,
    /// Probability of a horizontal flip, 0 to 1 [default: the preset's]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_flip: Option<f64>,
    /// Colour jitter: change brightness, contrast and saturation by up to this factor, 0 to 2, the hue by a quarter of
    /// it [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_jitter: Option<f64>,
    /// Automatic augmentation; trivial is TrivialAugment [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) augment_policy: Option<PolicyName>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PolicyName {
    None,
    Trivial,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::None => Self::None,
            PolicyName::Trivial => Self::Trivial,
        }
    }
}

impl Augmentation {
    pub(super) fn override_augment(&self, augment: &mut Augment) {
        let Augment { shift, rotation, scale, shear, elastic, erase, mixup, cutmix, .. } = *augment;
        let Augment { crop_scale, flip, jitter, policy, .. } = *augment;
        *augment = Augment {
            shift: self.augment_shift.unwrap_or(shift),
            rotation: self.augment_rotation.unwrap_or(rotation),
            scale: self.augment_scale.unwrap_or(scale),
            shear: self.augment_shear.unwrap_or(shear),
            elastic: self.augment_elastic.unwrap_or(elastic),
            erase: self.augment_erase.unwrap_or(erase),
            mixup: self.augment_mixup.unwrap_or(mixup),
            cutmix: self.augment_cutmix.unwrap_or(cutmix),
            crop_scale: self.augment_crop_scale.unwrap_or(crop_scale),
            flip: self.augment_flip.unwrap_or(flip),
            jitter: self.augment_jitter.unwrap_or(jitter),
            policy: self.augment_policy.map_or(policy, Into::into),
        };
    }
}
