#![doc = include_str!("../README.md")]

mod checkpoints;
mod environment;
mod error;
mod folder;
mod metrics;
mod metrics_file;
mod names;

pub use checkpoints::{check_checkpoint, newest_checkpoints};
pub use environment::Environment;
pub use error::Error;
pub use folder::RunFolder;
pub use metrics::{
    EpochMetrics, LONGEST_LINE, Metrics, Record, StepMetrics, read_metrics, read_records,
};
pub use metrics_file::{MetricsFile, MetricsMark, Rebuilt};
pub use names::{
    BEST, CHECKPOINTS, CONFIG, DIVERGED, ENVIRONMENT, EVENTS, LAST, LOCK, METRICS, MODEL, PLOTS,
    REPORT, SKIPPED, STATE, TABLE, TENSORS,
};
