//! The recipe flags of `vit train`.

use clap::{Args, ValueEnum};
use vit_train::{Decay, OptimizerConfig, OptimizerKind, ScheduleKind};

use crate::args::whole_number;
use crate::settings::Settings;

/// Training beyond the notebook's recipe.
#[derive(Debug, Args)]
#[command(next_help_heading = "Recipe")]
pub(crate) struct Recipe {
    /// Learning-rate schedule after the warm-up [default: constant; for pictures one-cycle]
    #[arg(long, value_name = "NAME")]
    pub(crate) schedule: Option<ScheduleName>,
    /// Warm-up steps, at least 0 [default: 0; for one-cycle three tenths of the run]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) warmup: Option<u64>,
    /// Final learning rate of a schedule, 0 to --lr [default: 0; for one-cycle --lr / 250000]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) min_lr: Option<f64>,
    /// Use AdamW with this weight decay, at least 0, on matrices: not on norms, biases, position embeddings and class
    /// token [default: Adam without decay; for pictures 0.05]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) weight_decay: Option<f64>,
    /// Gradient clipping: largest norm of all gradients together, above 0 [default: no clipping; for pictures 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) clip: Option<f64>,
    /// Accumulate the gradients of N batches for a step, at least 1 [default: 1]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) accumulate: Option<u64>,
    /// Label smoothing: spread this share of each label, in [0, 1), over all classes [default: 0; for
    /// pictures 0.1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) label_smoothing: Option<f64>,
    /// Evaluate and save an exponential moving average of the weights with this decay, in [0, 1), such as 0.999
    /// [default: the weights themselves]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) ema: Option<f64>,
    /// Hold out this share of the training images, in [0, 1), for validation, and keep the best epoch's weights
    /// [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) val_split: Option<f64>,
    /// Early stopping: stop after N epochs, at least 1, without a better validation accuracy [default: never]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) patience: Option<u64>,
}

impl Recipe {
    pub(super) fn override_settings(&self, settings: &mut Settings) {
        let train = &mut settings.train;
        let schedule = &mut train.schedule;
        schedule.kind = self.schedule.map_or(schedule.kind, Into::into);
        schedule.warmup = self.warmup.or(schedule.warmup);
        schedule.min_lr = self.min_lr.or(schedule.min_lr);
        if let Some(weight_decay) = self.weight_decay {
            let (kind, decay) = (OptimizerKind::AdamW, Decay::Matrices);
            train.optimizer = OptimizerConfig { kind, decay, weight_decay, ..train.optimizer };
        }
        train.clip = self.clip.or(train.clip);
        train.accumulate = self.accumulate.unwrap_or(train.accumulate);
        train.label_smoothing = self.label_smoothing.unwrap_or(train.label_smoothing);
        train.ema = self.ema.or(train.ema);
        train.patience = self.patience.or(train.patience);
        settings.val_split = self.val_split.unwrap_or(settings.val_split);
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ScheduleName {
    Constant,
    Cosine,
    // As in configuration files.
    #[value(alias = "one_cycle")]
    OneCycle,
}

impl From<ScheduleName> for ScheduleKind {
    fn from(name: ScheduleName) -> Self {
        match name {
            ScheduleName::Constant => Self::Constant,
            ScheduleName::Cosine => Self::Cosine,
            ScheduleName::OneCycle => Self::OneCycle,
        }
    }
}
