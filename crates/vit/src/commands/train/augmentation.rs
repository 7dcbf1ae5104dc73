//! The flags of `vit train` that change training images.

use clap::Args;
use vit_data::Augment;

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
}

impl Augmentation {
    pub(super) fn override_augment(&self, augment: &mut Augment) {
        let Augment { shift, rotation, scale, shear, elastic, erase, mixup, cutmix } = *augment;
        *augment = Augment {
            shift: self.augment_shift.unwrap_or(shift),
            rotation: self.augment_rotation.unwrap_or(rotation),
            scale: self.augment_scale.unwrap_or(scale),
            shear: self.augment_shear.unwrap_or(shear),
            elastic: self.augment_elastic.unwrap_or(elastic),
            erase: self.augment_erase.unwrap_or(erase),
            mixup: self.augment_mixup.unwrap_or(mixup),
            cutmix: self.augment_cutmix.unwrap_or(cutmix),
        };
    }
}
