//! Named configurations with their sources.

use vit_layers::{Activation, NormPlacement, ScoreScale};
use vit_patch::{ImageSize, PatchSize, Position, PositionRows};

use crate::{DropoutConfig, Error, Output, Pool, VitConfig};

/// A named configuration.
///
/// The papers' presets are for RGB images of 224x224 px in 1000 classes, with a class token, and equal timm's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// The notebook as its code runs, quirks included: 41,418 parameters.
    Notebook,
    /// The notebook as its text describes it: 40,330 parameters.
    Shallow,
    /// Pictures of 32x32 px in patches of 4x4: 6 blocks of width 128, mean pooling.
    Pictures32,
    /// The same for pictures of 64x64 px in patches of 8x8.
    Pictures64,
    /// ViT-Ti/16 (DeiT, arXiv 2012.12877, table 1; *How to train your ViT*, arXiv 2106.10270, table 2; timm's
    /// `vit_tiny_patch16_224`): 5,717,416 parameters.
    VitTi16,
    /// ViT-S/16 (DeiT, arXiv 2012.12877, table 1; *How to train your ViT*, arXiv 2106.10270, table 2; timm's
    /// `vit_small_patch16_224`): 22,050,664 parameters.
    VitS16,
    /// ViT-B/16 (ViT, arXiv 2010.11929, table 1; timm's `vit_base_patch16_224`): 86,567,656 parameters.
    VitB16,
    /// ViT-B/32 (ViT, arXiv 2010.11929, table 1; timm's `vit_base_patch32_224`): 88,224,232 parameters.
    VitB32,
    /// ViT-L/16 (ViT, arXiv 2010.11929, table 1; timm's `vit_large_patch16_224`): 304,326,632 parameters.
    VitL16,
}

impl Preset {
    /// Every preset.
    #[must_use]
    pub const fn all() -> &'static [Self] {
        &[
            Self::Notebook,
            Self::Shallow,
            Self::Pictures32,
            Self::Pictures64,
            Self::VitTi16,
            Self::VitS16,
            Self::VitB16,
            Self::VitB32,
            Self::VitL16,
        ]
    }

    /// The name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notebook => "notebook",
            Self::Shallow => "shallow",
            Self::Pictures32 => "pictures-32",
            Self::Pictures64 => "pictures-64",
            Self::VitTi16 => "vit-ti16",
            Self::VitS16 => "vit-s16",
            Self::VitB16 => "vit-b16",
            Self::VitB32 => "vit-b32",
            Self::VitL16 => "vit-l16",
        }
    }

    /// The preset of this name.
    ///
    /// # Errors
    /// If no preset has this name.
    pub fn named(name: &str) -> Result<Self, Error> {
        let found = Self::all().iter().copied().find(|preset| preset.name() == name);
        found.ok_or_else(|| Error::UnknownPreset { name: name.to_owned() })
    }

    /// The names of all presets, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::all().iter().map(|preset| preset.name()).collect::<Vec<_>>().join(", ")
    }

    /// The preset's configuration.
    #[must_use]
    pub fn config(self) -> VitConfig {
        match self {
            Self::Notebook => VitConfig {
                position: Position::PatchLinear,
                score_scale: ScoreScale::Dim,
                output: Output::Softmax,
                ..Self::Shallow.config()
            },
            Self::Shallow => VitConfig {
                image: ImageSize { height: 28, width: 28, channels: 1 },
                patch: PatchSize { height: 7, width: 7 },
                dim: 32,
                depth: 3,
                heads: 4,
                head_dim: None,
                mlp_dim: 128,
                classes: 10,
                position: Position::Learned,
                position_rows: PositionRows::Tokens,
                registers: 0,
                score_scale: ScoreScale::HeadDim,
                output: Output::Logits,
                pool: Pool::First,
                activation: Activation::Relu,
                qkv_bias: false,
                qk_norm: false,
                layer_scale: None,
                norm: NormPlacement::Pre,
                dropout: DropoutConfig {
                    embedding: 0.0,
                    attention: 0.2,
                    projection: 0.2,
                    mlp: 0.2,
                },
                drop_path: 0.0,
                layer_norm_eps: 1e-5,
            },
            Self::Pictures32 => of_pictures(32, 4),
            Self::Pictures64 => of_pictures(64, 8),
            Self::VitTi16 => of_the_papers(16, 192, 12, 3),
            Self::VitS16 => of_the_papers(16, 384, 12, 6),
            Self::VitB16 => of_the_papers(16, 768, 12, 12),
            Self::VitB32 => of_the_papers(32, 768, 12, 12),
            Self::VitL16 => of_the_papers(16, 1024, 24, 16),
        }
    }
}

/// Small enough for a few hundred pictures: 64 patches, mean pooling.
fn of_pictures(side: usize, patch: usize) -> VitConfig {
    VitConfig {
        image: ImageSize { height: side, width: side, channels: 3 },
        classes: 10,
        mlp_dim: 256,
        pool: Pool::Mean,
        drop_path: 0.1,
        ..of_the_papers(patch, 128, 6, 4)
    }
}

/// ViT as the paper and timm build it, with square patches of this side.
fn of_the_papers(patch: usize, dim: usize, depth: usize, heads: usize) -> VitConfig {
    let shallow = Preset::Shallow.config();
    VitConfig {
        image: ImageSize { height: 224, width: 224, channels: 3 },
        patch: PatchSize { height: patch, width: patch },
        dim,
        depth,
        heads,
        mlp_dim: 4 * dim,
        classes: 1000,
        pool: Pool::Cls,
        activation: Activation::Gelu,
        qkv_bias: true,
        layer_norm_eps: 1e-6,
        ..shallow.with_dropout(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Summary};

    #[test]
    fn presets_are_valid_and_found_by_name() {
        for &preset in Preset::all() {
            assert!(preset.config().check().is_ok());
            assert_eq!(Preset::named(preset.name()).ok(), Some(preset));
        }
        assert_eq!(
            Preset::named("deep").unwrap_err().to_string(),
            "no preset is called \"deep\", expected one of notebook, shallow, pictures-32, \
             pictures-64, vit-ti16, vit-s16, vit-b16, \
             vit-b32, vit-l16"
        );
    }

    /// Counted by PyTorch in the notebook's class and timm's models.
    #[test]
    fn presets_have_pytorchs_parameter_counts() {
        let sizes = Preset::all()
            .iter()
            .map(|preset| Summary::of(&preset.config()).expect("a preset is sound").parameters());
        assert_eq!(
            sizes.collect::<Vec<_>>(),
            [
                41_418,
                40_330,
                810_890,
                829_322,
                5_717_416,
                22_050_664,
                86_567_656,
                88_224_232,
                304_326_632
            ]
        );
    }

    #[test]
    fn papers_presets_are_expressible_in_timm_and_transformers() {
        for preset in &Preset::all()[4..] {
            for layout in [Layout::Timm, Layout::Hf] {
                assert!(layout.check_expressible(&preset.config()).is_ok(), "{}", preset.name());
            }
        }
    }
}
