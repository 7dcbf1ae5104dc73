//! Which models a layout's library computes.

use std::fmt;

use vit_layers::{NormPlacement, ScoreScale};
use vit_patch::{Position, PositionRows};

use super::Layout;
use crate::{Error, Output, Pool, VitConfig};

impl Layout {
    /// Checks that this layout's library computes a model of `config`. Names alone are not enough.
    ///
    /// Dropout rates are ignored: timm keeps them elsewhere, and transformers has one rate for all dropout except
    /// attention weights.
    ///
    /// # Errors
    /// Names the first field that it cannot express.
    pub fn check_expressible(self, config: &VitConfig) -> Result<(), Error> {
        let require = |holds: bool, field, value: &dyn fmt::Debug, expected| {
            let value = snake_case(&format!("{value:?}"));
            let error = Error::Inexpressible { layout: self, field, value, expected };
            if holds { Ok(()) } else { Err(error) }
        };
        let VitConfig { pool, position, position_rows, registers, .. } = config;
        match self {
            Self::Timm => {
                let pooled = matches!(pool, Pool::Cls | Pool::Mean);
                require(pooled, "pool", pool, "cls or mean")?;
            }
            Self::Hf => {
                require(*pool == Pool::Cls, "pool", pool, "cls")?;
                require(*registers == 0, "registers", registers, "0")?;
                let tokens = *position_rows == PositionRows::Tokens;
                require(tokens, "position_rows", position_rows, "tokens")?;
            }
            Self::Notebook => {
                require(*pool == Pool::First, "pool", pool, "first")?;
                require(!config.qkv_bias, "qkv_bias", &config.qkv_bias, "false")?;
                let named = matches!(position, Position::Learned | Position::PatchLinear);
                require(named, "position", position, "learned or patch_linear")?;
                require(*registers == 0, "registers", registers, "0")?;
            }
        }
        require(config.norm == NormPlacement::Pre, "norm", &config.norm, "pre")?;
        if self != Self::Timm {
            require(!config.qk_norm, "qk_norm", &config.qk_norm, "false")?;
            let scale = config.layer_scale;
            require(scale.is_none(), "layer_scale", &scale.unwrap_or_default(), "none")?;
            let width = config.head_dim.unwrap_or_default();
            let divides = config.head_dim.is_none_or(|width| width * config.heads == config.dim);
            require(divides, "head_dim", &width, "dim / heads")?;
        }
        if self == Self::Notebook {
            return Ok(());
        }
        require(*position == Position::Learned, "position", position, "learned")?;
        let (scale, output) = (config.score_scale, config.output);
        require(scale == ScoreScale::HeadDim, "score_scale", &scale, "head_dim")?;
        require(output == Output::Logits, "output", &output, "logits")
    }
}

/// `HeadDim` as in configurations: `head_dim`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    fn class_token() -> VitConfig {
        VitConfig { pool: Pool::Cls, qkv_bias: true, ..Preset::Shallow.config() }
    }

    #[track_caller]
    fn refused(layout: Layout, config: &VitConfig) -> String {
        let error = layout.check_expressible(config).unwrap_err().to_string();
        let message = error.strip_prefix(&format!("the {layout} layout cannot express "));
        message.expect("what cannot be expressed").to_owned()
    }

    #[test]
    fn inexpressible_field_is_named() {
        let shallow = Preset::Shallow.config();
        assert_eq!(refused(Layout::Timm, &shallow), "pool = first, expected cls or mean");
        assert_eq!(refused(Layout::Hf, &shallow), "pool = first, expected cls");
        let config = VitConfig { score_scale: ScoreScale::Dim, ..class_token() };
        assert_eq!(refused(Layout::Hf, &config), "score_scale = dim, expected head_dim");
        assert_eq!(refused(Layout::Notebook, &class_token()), "pool = cls, expected first");
    }

    #[test]
    fn later_features_are_expressible_in_timm_only() {
        for (config, value) in [
            (VitConfig { registers: 4, ..class_token() }, "registers = 4, expected 0"),
            (
                VitConfig { position_rows: PositionRows::Patches, ..class_token() },
                "position_rows = patches, expected tokens",
            ),
            (VitConfig { qk_norm: true, ..class_token() }, "qk_norm = true, expected false"),
            (
                VitConfig { layer_scale: Some(0.5), ..class_token() },
                "layer_scale = 0.5, expected none",
            ),
            (
                VitConfig { head_dim: Some(5), ..class_token() },
                "head_dim = 5, expected dim / heads",
            ),
        ] {
            assert_eq!(refused(Layout::Hf, &config), value);
            assert!(Layout::Timm.check_expressible(&config).is_ok(), "{value}");
        }
        let config = VitConfig { head_dim: Some(8), ..class_token() };
        assert!(Layout::Hf.check_expressible(&config).is_ok(), "the width that it has anyway");
        let config = VitConfig { norm: NormPlacement::Post, ..class_token() };
        assert_eq!(refused(Layout::Timm, &config), "norm = post, expected pre");
    }
}
