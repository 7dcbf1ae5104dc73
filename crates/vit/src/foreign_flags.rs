//! Flags that complete the description of a foreign model.

use std::str::FromStr;

use clap::Args;
use vit_model::{Known, Layout, Normalization, VitConfig};
use vit_patch::Resampling;

/// Settings that a foreign file may lack.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings that foreign files may lack")]
pub(crate) struct ForeignFlags {
    /// Attention heads, at least 1 [default: the folder's, else width / 64]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Image size in pixels, at least 1; positions learned at another size are resampled [default: the model's]
    #[arg(long, value_name = "N|HxW")]
    image_size: Option<Size>,
    /// How positions are resampled for --image-size: like timm (antialiased) or like transformers (hf) [default: like
    /// the model's library; for ours like timm]
    #[arg(long, value_name = "LIBRARY")]
    resample: Option<Resample>,
    /// Epsilon of layer norms, above 0 [default: the folder's, else its library's]
    #[arg(long, value_name = "F")]
    layer_norm_eps: Option<f64>,
    /// Mean of each channel, for pixels in [0, 1] [default: the folder's, else 0.5]
    #[arg(long, value_name = "F,...", value_delimiter = ',', requires = "std")]
    mean: Vec<f64>,
    /// Standard deviation of each channel, above 0 [default: the folder's, else 0.5]
    #[arg(long, value_name = "F,...", value_delimiter = ',', requires = "mean")]
    std: Vec<f64>,
}

impl ForeignFlags {
    /// The given settings.
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

    /// How positions are resampled, with a description; by default like the library of the model's layout.
    pub(crate) fn resampling(&self, layout: Layout) -> (Resampling, &'static str) {
        match (self.resample, layout) {
            (Some(Resample::Hf), _) => (Resampling::Hf, "like transformers"),
            (Some(Resample::Timm), _) => (Resampling::Timm, "like timm"),
            (None, Layout::Hf) => (Resampling::Hf, "assumed: like transformers, --resample hf"),
            (None, _) => (Resampling::Timm, "assumed: like timm, --resample timm"),
        }
    }

    /// The model at the requested image size, if one was given.
    pub(crate) fn at_asked_size(&self, config: &VitConfig) -> VitConfig {
        match self.image_size {
            Some(Size { height, width }) => config.clone().at_image_size(height, width),
            None => config.clone(),
        }
    }
}

/// The library whose resampling is used.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Resample {
    Timm,
    Hf,
}

/// Image size in pixels.
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
            _ => Err("expected a side such as 224, or height and width such as 224x160".to_owned()),
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
