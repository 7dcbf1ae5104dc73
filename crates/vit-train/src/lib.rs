#![doc = include_str!("../README.md")]

mod argmax;
mod averages;
mod backend;
mod best;
mod checkpoint;
mod config;
mod cpu;
mod data;
mod error;
mod evaluation;
#[cfg(feature = "cuda")]
mod gpu;
mod gradients;
mod group;
mod loss;
mod mixed;
mod model;
mod observer;
mod optimizer;
mod saved_tensors;
mod schedule;
mod state;
mod sums;
mod threads;
mod trainer;

pub use argmax::argmax;
pub use best::Best;
pub use checkpoint::{SavedState, most_bytes_of};
pub use config::TrainConfig;
pub use data::{Batch, Bytes, Data};
pub use error::Error;
pub use evaluation::{Confusion, EVALUATION_BATCH, Evaluation, evaluate};
pub use gradients::clip_gradients;
pub use group::Group;
pub use loss::{CrossEntropy, Loss};
pub use mixed::MixedCrossEntropy;
pub use model::Model;
pub use observer::{AfterStep, Checkpoint, Evaluated, Observer, Progress, Scores};
pub use optimizer::{Decay, Optimizer, OptimizerConfig, OptimizerKind};
pub use schedule::{Schedule, ScheduleKind};
pub use state::{NamedVars, RunProgress, Tensors, TrainState};
pub use sums::Sums;
pub use trainer::Trainer;
pub use trainer::builder::TrainerBuilder;
pub use vit_ops::Mode;
pub use vit_run::{EpochMetrics, MetricsMark, Record, RunFolder, StepMetrics};
