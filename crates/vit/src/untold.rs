//! Arguments that say what a foreign file may not.

use std::str::FromStr;

use clap::Args;
use vit_model::{Known, Layout, Normalization, VitConfig};
use vit_patch::Resampling;

/// What a foreign file may leave untold.
#[derive(Debug, Args)]
#[command(next_help_heading = "What foreign files may not tell")]
pub(crate) struct Untold {
    /// Attention heads [default: the folder's, else heads of 64]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Size of the images; positions learned at another size are resampled
    #[arg(long, value_name = "N|HxW")]
    image_size: Option<Size>,
    /// How positions are resampled for --image-size: as timm does (antialiased) or as transformers does (hf) [default: as the
    /// library that the model is of; of ours, as timm]
    #[arg(long, value_name = "LIBRARY")]
    resample: Option<Resample>,
    /// Added to the variance in layer norms [default: the folder's, else its library's]
    #[arg(long, value_name = "F")]
    layer_norm_eps: Option<f64>,
    /// What is subtracted from each channel of pixels in [0, 1] [default: the folder's, else 0.5]
    #[arg(long, value_name = "F,...", value_delimiter = ',', requires = "std")]
    mean: Vec<f64>,
    /// What each channel is then divided by [default: the folder's, else 0.5]
    #[arg(long, value_name = "F,...", value_delimiter = ',', requires = "mean")]
    std: Vec<f64>,
}

impl Untold {
    /// What was told.
    pub(crate) fn known(&self) -> Known {
        let scaling = Normalization { mean: self.mean.clone(), std: self.std.clone() };
        Known {
            heads: self.heads,
            image: self.image_size.map(|size| (size.height, size.width)),
            layer_norm_eps: self.layer_norm_eps,
            normalization: Some(scaling).filter(|scaling| !scaling.mean.is_empty()),
            ..Known::default()
        }
    }

    /// How positions are resampled, in words too: by default as the library does whose layout a model has.
    pub(crate) fn resampling(&self, layout: Layout) -> (Resampling, &'static str) {
        match (self.resample, layout) {
            (Some(Resample::Hf), _) => (Resampling::Hf, "as transformers does"),
            (Some(Resample::Timm), _) => (Resampling::Timm, "as timm does"),
            (None, Layout::Hf) => (Resampling::Hf, "assumed: as transformers does, --resample hf"),
            (None, _) => (Resampling::Timm, "assumed: as timm does, --resample timm"),
        }
    }

    /// The same model for images of the size that was asked for, if one was.
    pub(crate) fn at_asked_size(&self, config: &VitConfig) -> VitConfig {
        match self.image_size {
            Some(Size { height, width }) => config.clone().at_image_size(height, width),
            None => config.clone(),
        }
    }
}

/// A library that resamples positions.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Resample {
    Timm,
    Hf,
}

/// Of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        match (height.parse(), width.parse()) {
            (Ok(height), Ok(width)) if height > 0 && width > 0 => Ok(Self { height, width }),
            _ => {
                Err("expected a side such as 224, or a height and a width such as 224x160"
                    .to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_square_or_a_rectangle() {
        assert_eq!("224".parse(), Ok(Size { height: 224, width: 224 }));
        assert_eq!("224x160".parse(), Ok(Size { height: 224, width: 160 }));
        for wrong in ["", "x", "0", "224x", "x160", "-1", "1x2x3"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
