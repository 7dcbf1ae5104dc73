//! The fine-tuning flags of `vit train`.

use std::path::PathBuf;

use clap::Args;

use crate::args::path;
use crate::settings::{Finetune, Freeze};

/// Fine-tuning: training that starts from another model's parameters.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fine-tuning")]
pub(crate) struct Finetuning {
    /// Start from a model: a run, a checkpoint, a safetensors file, or a folder saved by timm or transformers. It sets
    /// the shape; if the dataset has other classes, the head is new
    #[arg(long, value_name = "MODEL", value_parser = path())]
    pub(crate) init: Option<PathBuf>,
    /// Start with a new head, even if the model's would fit
    #[arg(long)]
    new_head: bool,
    /// Parameters to freeze. N: the embedding and the first N blocks, 0 to the depth; all: everything but the head
    /// [default: none]
    #[arg(long, value_name = "none|N|all")]
    freeze: Option<Freeze>,
    /// Layer-wise learning-rate decay: multiply the rate by F, in (0, 1], for each layer below the head, such as 0.75
    /// [default: 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    layer_decay: Option<f64>,
}

impl Finetuning {
    pub(super) fn override_settings(&self, finetune: &mut Finetune) {
        finetune.init = self.init.clone().or_else(|| finetune.init.take());
        finetune.new_head |= self.new_head;
        finetune.freeze = self.freeze.unwrap_or(finetune.freeze);
        finetune.layer_decay = self.layer_decay.or(finetune.layer_decay);
    }
}
