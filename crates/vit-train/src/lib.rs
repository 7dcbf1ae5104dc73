#![doc = include_str!("../README.md")]

mod error;
mod evaluation;
mod gradients;
mod metrics;
mod optimizer;
mod run_folder;
mod shards;
mod threads;
mod trainer;

pub use error::Error;
pub use evaluation::{Confusion, Evaluation, evaluate};
pub use metrics::{EpochMetrics, MetricsFile, Record, StepMetrics};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
pub use run_folder::RunFolder;
pub use trainer::{Batch, Data, Forward, Observer, TrainConfig, Trainer};

/// Parameters by name, sorted.
pub type Parameters = Vec<(String, candle_core::Var)>;
