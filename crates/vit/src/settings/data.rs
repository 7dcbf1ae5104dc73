//! The table `[data]`: how a dataset is read.

use serde::{Deserialize, Serialize};
use vit_data::Normalization;
use vit_model::Interpolation;

use crate::failure::{Exit, Failure, Result};

/// How a dataset is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DataSettings {
    /// The share of each class that is drawn for the test, where a folder or a CSV file has no test part.
    pub(crate) test_split: f64,
    /// Whether pictures that cannot be read are left out.
    pub(crate) skip_unreadable: bool,
    /// Whether pictures are scaled down once, into a cache; else they are decoded whenever they are asked for.
    pub(crate) cache: bool,
    /// What the shorter side of a picture is scaled down to once, in pixels: 1.5 times the longer side of the images where it
    /// is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resize: Option<usize>,
    /// The share of the shorter side that an evaluation sees, in the middle: timm's `crop_pct`.
    pub(crate) crop: f64,
    /// How pictures are scaled: bilinear or bicubic.
    pub(crate) interpolation: Interpolation,
    /// What is subtracted from pixels in [0, 1]: one number, or one for each channel. Empty where the dataset's is to be
    /// measured.
    pub(crate) mean: Vec<f64>,
    /// What they are then divided by.
    pub(crate) std: Vec<f64>,
}

impl Default for DataSettings {
    fn default() -> Self {
        let Normalization { mean, std } = Normalization::half();
        Self {
            test_split: 0.2,
            skip_unreadable: false,
            cache: true,
            resize: None,
            crop: 1.0,
            interpolation: Interpolation::Bicubic,
            mean,
            std,
        }
    }
}

impl DataSettings {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the ranges.
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.test_split) {
            let message = format!("expected data.test_split in [0, 1), got {}", self.test_split);
            return Err(Failure::new(Exit::Usage, message));
        }
        if !(self.crop > 0.0 && self.crop <= 1.0) {
            let message = format!("expected data.crop above 0 and at most 1, got {}", self.crop);
            return Err(Failure::new(Exit::Usage, message));
        }
        let has_no_mean = self.mean.is_empty() && self.std.is_empty();
        if !has_no_mean && !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            let message = format!("expected data.std above 0, got {:?}", self.std);
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(())
    }

    /// What pixels are normalised by, if that is known.
    pub(crate) fn normalization(&self) -> Option<Normalization> {
        let Self { mean, std, .. } = self.clone();
        (!mean.is_empty()).then_some(Normalization { mean, std })
    }
}
