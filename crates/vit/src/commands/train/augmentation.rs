//! The flags of `vit train` that change training images.

use clap::{Args, ValueEnum};
use vit_data::{Augment, Policy};

/// How training images are changed, anew in each epoch: the fields of [`vit_data::Augment`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Augmentation")]
pub(crate) struct Augmentation {
    /// Move training images by up to PX pixels to each side, and up and down [default: 0]
    #[arg(long, value_name = "PX", allow_negative_numbers = true)]
    pub(crate) augment_shift: Option<f64>,
    /// Turn them by up to this, either way [default: 0]
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true)]
    pub(crate) augment_rotation: Option<f64>,
    /// Enlarge them by up to this share, or shrink them by its inverse [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_scale: Option<f64>,
    /// Lean their columns by up to this, either way [default: 0]
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true)]
    pub(crate) augment_shear: Option<f64>,
    /// Bend them: a grid of 5x5 nodes is displaced by up to PX pixels [default: 0]
    #[arg(long, value_name = "PX", allow_negative_numbers = true)]
    pub(crate) augment_elastic: Option<f64>,
    /// How probable it is that a rectangle of 2 to 20 % of an image becomes black [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_erase: Option<f64>,
    /// Mix each with another, and their labels too, by a share of Beta(F, F), such as 0.2; on the CPU alone [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_mixup: Option<f64>,
    /// CutMix: a rectangle of each becomes another image's, of a share of Beta(F, F), such as 1; on the CPU alone [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_cutmix: Option<f64>,
    /// Cut out a random part of each picture, of at least this share of its area, such as 0.35; 0 is none [default: the
    /// preset's]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_crop_scale: Option<f64>,
    /// How probable it is that left and right are exchanged [default: the preset's]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_flip: Option<f64>,
    /// Change brightness, contrast and saturation by up to this share, and the hue by a quarter of it [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) augment_jitter: Option<f64>,
    /// A policy that draws changes by itself: trivial is TrivialAugment [default: none]
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
