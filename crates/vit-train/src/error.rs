//! Errors of training.

use std::path::PathBuf;

/// Why a run cannot start or continue. Each message names the thing, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Parameters without a gradient: the loss does not depend on them, or an operation cut the gradient.
    #[error("no gradient reached {} of {total} parameters: {}", names.len(), names.join(", "))]
    NoGradient {
        /// Their names.
        names: Vec<String>,
        /// Number of all parameters.
        total: usize,
    },
    /// A non-finite loss or gradient.
    #[error("step {step} of epoch {epoch}: expected a finite {what}, got {value}")]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// `loss`, or the parameter with that gradient.
        what: String,
        /// Its value.
        value: f64,
    },
    /// A setting is out of range.
    #[error("expected {field} {expected}, got {value}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        value: String,
    },
    /// There are no parameters to train.
    #[error("expected at least one parameter to train, got {}", match frozen {
        0 => "none: a model's parameters must be variables of its `VarBuilder`".to_owned(),
        frozen => format!("{frozen}, all of them frozen"),
    })]
    NoParameters {
        /// Number of frozen parameters.
        frozen: usize,
    },
    /// There are fewer training samples than a batch.
    #[error("expected at least one batch of {batch_size} training samples, got {samples} samples")]
    NoBatch {
        /// Samples in a batch.
        batch_size: usize,
        /// Training samples.
        samples: usize,
    },
    /// A state of another model, other settings or other data.
    #[error("the state to resume from: expected {expected}, got {got}")]
    State {
        /// The trainer's.
        expected: String,
        /// The state's.
        got: String,
    },
    /// A file of a run cannot be read, or its content has changed.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The problem.
        what: String,
    },
    /// Mixed samples in training on a GPU, which supports one label a sample.
    #[error("expected samples that are not mixed (mixup) in training on a GPU, got mixed ones")]
    MixedOnGpu,
    /// A setting that training on a GPU does not support.
    #[error("expected {expected} in training on a GPU, got {got}")]
    OnGpu {
        /// Supported value.
        expected: &'static str,
        /// Requested value.
        got: &'static str,
    },
    /// A setting that several ranks do not support, or too many ranks.
    #[error("expected {expected}, got {got}")]
    Ranks {
        /// Supported value.
        expected: String,
        /// Requested value.
        got: String,
    },
    /// A run directory cannot be read or written, or is damaged.
    #[error(transparent)]
    Run(#[from] vit_run::Error),
    /// Threads cannot be started.
    #[error("cannot start {threads} threads")]
    Threads {
        /// The requested number.
        threads: usize,
        /// The system's error.
        source: rayon::ThreadPoolBuildError,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Whether data of a run was read and is damaged ([`vit_run::Error::is_damage`]).
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Run(error) if error.is_damage())
    }
}
