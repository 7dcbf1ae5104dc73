//! The table `[finetune]`: initial and frozen parameters.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vit_model::VitConfig;

use crate::failure::{Exit, Failure, Result};

/// Fine-tuning: the table `[finetune]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Finetune {
    /// The model to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) init: Option<PathBuf>,
    /// Whether to drop its head even if it fits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) new_head: bool,
    /// The frozen parameters.
    #[serde(skip_serializing_if = "Freeze::is_none")]
    pub(crate) freeze: Freeze,
    /// Layer-wise learning-rate decay: each layer below the head multiplies the rate by this once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layer_decay: Option<f64>,
}

/// Which parameters are frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FreezeInFile", into = "FreezeInFile")]
pub(crate) enum Freeze {
    #[default]
    None,
    /// The embedding, and this many blocks from the bottom.
    Blocks(usize),
    /// Everything but the head.
    All,
}

/// A number or word in TOML.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum FreezeInFile {
    Blocks(usize),
    Word(String),
}

impl Finetune {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the settings for a model.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub(super) fn check(&self, model: &VitConfig) -> Result<()> {
        let usage = |message| Err(Failure::new(Exit::Usage, message));
        if let Some(path) = self.init.as_ref().filter(|path| path.to_str().is_none()) {
            let got = path.display();
            return usage(format!("expected init in UTF-8, as config.toml is, got {got}"));
        }
        if let Freeze::Blocks(blocks) = self.freeze
            && blocks > model.depth
        {
            let depth = model.depth;
            return usage(format!(
                "expected freeze of at most {depth}, the model's number of blocks, got {blocks}"
            ));
        }
        match self.layer_decay {
            Some(decay) if !(decay > 0.0 && decay <= 1.0) => {
                usage(format!("expected layer_decay in (0, 1], got {decay}"))
            }
            _ => Ok(()),
        }
    }
}

impl Freeze {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.parse()) {
            ("none", _) | (_, Ok(0)) => Ok(Self::None),
            ("all", _) => Ok(Self::All),
            (_, Ok(blocks)) => Ok(Self::Blocks(blocks)),
            _ => Err("expected none, all, or a number of blocks".to_owned()),
        }
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Blocks(blocks) => write!(f, "{blocks}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl TryFrom<FreezeInFile> for Freeze {
    type Error = String;

    fn try_from(file: FreezeInFile) -> std::result::Result<Self, String> {
        match file {
            FreezeInFile::Blocks(0) => Ok(Self::None),
            FreezeInFile::Blocks(blocks) => Ok(Self::Blocks(blocks)),
            FreezeInFile::Word(word) => word.parse(),
        }
    }
}

impl From<Freeze> for FreezeInFile {
    fn from(freeze: Freeze) -> Self {
        match freeze {
            Freeze::Blocks(blocks) => Self::Blocks(blocks),
            Freeze::None | Freeze::All => Self::Word(freeze.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freeze_is_a_word_or_a_number() {
        for (text, freeze) in [
            ("freeze = \"all\"\n", Freeze::All),
            ("freeze = 3\n", Freeze::Blocks(3)),
            ("", Freeze::None),
        ] {
            let finetune = Finetune { freeze, ..Finetune::default() };
            assert_eq!(toml::to_string(&finetune).expect("plain data"), text);
            assert_eq!(toml::from_str::<Finetune>(text).expect("as written"), finetune);
            assert_eq!(freeze.to_string().parse(), Ok(freeze));
        }
        for wrong in ["some", "-1", "1.5", ""] {
            assert!(wrong.parse::<Freeze>().is_err(), "{wrong}");
        }
    }
}
