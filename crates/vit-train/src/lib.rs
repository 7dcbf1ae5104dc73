#![doc = include_str!("../README.md")]

mod averages;
mod best;
mod checkpoint;
mod config;
mod error;
mod evaluation;
mod gradients;
mod interface;
mod mixed;
#[cfg_attr(not(feature = "cuda"), path = "no_gpu.rs")]
mod on_gpu;
mod optimizer;
mod saved_tensors;
mod schedule;
mod shards;
mod state;
mod sums;
mod threads;
mod trainer;

pub use best::Best;
pub use checkpoint::{SavedState, most_bytes_of};
pub use config::TrainConfig;
pub use error::Error;
pub use evaluation::{Confusion, EVALUATION_BATCH, Evaluation, argmax, evaluate};
pub use gradients::clip_gradients;
pub use interface::{Batch, Bytes, Checkpoint, Data, Forward, Observer, Progress};
pub use mixed::Mixed;
pub use optimizer::{Decay, Optimizer, OptimizerConfig, OptimizerKind};
pub use schedule::{Schedule, ScheduleKind};
pub use state::{Place, Tensors, TrainState};
pub use sums::Sums;
pub use trainer::Trainer;
pub use vit_run::{EpochMetrics, MetricsMark, Record, RunFolder, StepMetrics};

/// Parameters by name, sorted.
pub type Parameters = Vec<(String, candle_core::Var)>;
