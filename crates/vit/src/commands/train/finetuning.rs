//! The flags of `vit train` that say what a run begins with, and what of it is trained.

use std::path::PathBuf;

use clap::Args;

use crate::args::path;
use crate::settings::{Finetune, Freeze};

/// Fine-tuning: training that begins with the parameters of a model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fine-tuning")]
pub(crate) struct Finetuning {
    /// Begin with the parameters of a model: a run, a checkpoint, a safetensors file, or the folder that timm or transformers
    /// saved it in. It sets the shape; where the dataset has other classes, the head is new
    #[arg(long, value_name = "MODEL", value_parser = path())]
    pub(crate) init: Option<PathBuf>,
    /// Begin with a new head, also where the one of --init would fit
    #[arg(long)]
    new_head: bool,
    /// Keep these parameters as they are: none, the embedding and the first N blocks, or all but the head [default: none]
    #[arg(long, value_name = "none|N|all")]
    freeze: Option<Freeze>,
    /// Multiply the learning rate by F for each layer below the head, such as 0.75 [default: 1]
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
