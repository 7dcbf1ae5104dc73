#![doc = include_str!("../README.md")]

mod averages;
mod best;
mod config;
mod error;
mod evaluation;
mod gradients;
mod interface;
mod metrics;
#[cfg_attr(not(feature = "cuda"), path = "no_gpu.rs")]
mod on_gpu;
mod optimizer;
mod run_folder;
mod schedule;
mod shards;
mod sums;
mod threads;
mod trainer;

pub use config::TrainConfig;
pub use error::Error;
pub use evaluation::{Confusion, EVALUATION_BATCH, Evaluation, argmax, evaluate};
pub use gradients::clip_gradients;
pub use interface::{Batch, Bytes, Data, Forward, Observer, Progress};
pub use metrics::{EpochMetrics, MetricsFile, Record, StepMetrics};
pub use optimizer::{Decay, Optimizer, OptimizerConfig, OptimizerKind};
pub use run_folder::RunFolder;
pub use schedule::{Schedule, ScheduleKind};
pub use trainer::Trainer;

/// Parameters by name, sorted.
pub type Parameters = Vec<(String, candle_core::Var)>;
