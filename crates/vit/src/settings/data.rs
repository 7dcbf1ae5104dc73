//! The table `[data]`: how a dataset is read.

use serde::{Deserialize, Serialize};
use vit_data::Normalization;
use vit_model::Interpolation;

use crate::failure::{Exit, Failure, Result};

/// How a dataset is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DataSettings {
    /// Share of each class drawn as the test split, if a folder or CSV file has none.
    pub(crate) test_split: f64,
    /// Whether to skip pictures that cannot be read.
    pub(crate) skip_unreadable: bool,
    /// Whether to cache scaled-down pictures; otherwise pictures are decoded on every access.
    pub(crate) cache: bool,
    /// Shorter side of stored pictures, in pixels. Default: 1.5 times the longer side of the images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resize: Option<usize>,
    /// Share of the shorter side that an evaluation uses, centred: timm's `crop_pct`.
    pub(crate) crop: f64,
    /// Interpolation: bilinear or bicubic.
    pub(crate) interpolation: Interpolation,
    /// Mean of pixels in [0, 1]: one number, or one a channel. Empty until it is computed from the dataset.
    pub(crate) mean: Vec<f64>,
    /// Standard deviation: one number, or one a channel.
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

    /// The normalisation of pixels, if known.
    pub(crate) fn normalization(&self) -> Option<Normalization> {
        let Self { mean, std, .. } = self.clone();
        (!mean.is_empty()).then_some(Normalization { mean, std })
    }
}
