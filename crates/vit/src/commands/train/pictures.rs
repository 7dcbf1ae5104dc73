//! The picture flags of `vit train`.

use clap::{Args, ValueEnum};
use vit_data::Normalization;

use crate::foreign_flags::Size;
use crate::settings::{Asked, Settings};

/// Conversion of pictures to images.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct PicturesArgs {
    /// Size in pixels of the images that pictures are resized and cropped to, at least 1 [default: the preset's; without one 64, or 32 for
    /// small pictures]
    #[arg(long, value_name = "N|HxW")]
    image_size: Option<Size>,
    /// Share of each class for a test split, in [0, 1), if the folder or CSV file has none [default: 0.2]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    test_split: Option<f64>,
    /// Pixel normalisation: half scales to [-1, 1]; imagenet and dataset subtract that mean and divide by that deviation
    /// [default: half]
    #[arg(long, value_name = "HOW")]
    normalize: Option<Normalize>,
    /// Skip pictures that cannot be read; `skipped.txt` in the run directory lists them
    #[arg(long)]
    skip_unreadable: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Normalize {
    Half,
    Imagenet,
    Dataset,
}

impl PicturesArgs {
    pub(super) fn override_settings(&self, settings: &mut Settings, mut asked: Asked) -> Asked {
        if let Some(Size { height, width }) = self.image_size {
            (settings.model.image.height, settings.model.image.width) = (height, width);
            asked.image = true;
        }
        let data = &mut settings.data;
        data.test_split = self.test_split.unwrap_or(data.test_split);
        data.skip_unreadable |= self.skip_unreadable;
        let normalization = match self.normalize {
            None => return asked,
            Some(Normalize::Half) => Normalization::half(),
            Some(Normalize::Imagenet) => Normalization::imagenet(),
            // Computed once the dataset is loaded.
            Some(Normalize::Dataset) => Normalization { mean: Vec::new(), std: Vec::new() },
        };
        (data.mean, data.std) = (normalization.mean, normalization.std);
        asked
    }
}
