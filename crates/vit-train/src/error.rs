//! Why training stops.

use std::path::PathBuf;

/// Why a run cannot begin or go on. Each variant names the thing, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Parameters that the loss does not depend on, or whose gradient an operation cut.
    #[error("no gradient reached {} of {total} parameters: {}", names.len(), names.join(", "))]
    NoGradient {
        /// Their names.
        names: Vec<String>,
        /// How many parameters there are.
        total: usize,
    },
    /// A loss or gradient that is infinite or not a number.
    #[error("step {step} of epoch {epoch}: expected a finite {what}, got {value}")]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// `loss`, or the parameter whose gradient it is.
        what: String,
        /// What came.
        value: f64,
    },
    /// A setting out of range.
    #[error("expected {field} {expected}, got {value}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// Its value.
        value: String,
    },
    /// Nothing to train.
    #[error("expected at least one parameter to train, got {}", match frozen {
        0 => "none: a model's parameters are variables, which it is given".to_owned(),
        frozen => format!("{frozen}, all of them frozen"),
    })]
    NoParameters {
        /// How many frozen parameters there are.
        frozen: usize,
    },
    /// Fewer training samples than a batch.
    #[error("expected at least one batch of {batch_size} training samples, got {samples} samples")]
    NoBatch {
        /// Samples in a batch.
        batch_size: usize,
        /// Training samples.
        samples: usize,
    },
    /// A state that is not of this trainer's model, settings or data.
    #[error("a state to go on from: expected {expected}, got {got}")]
    State {
        /// What the trainer has.
        expected: String,
        /// What the state has.
        got: String,
    },
    /// A file of a run that cannot be read, or says something else than was written.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Samples that are two mixed, in training on a GPU, which has one label for each.
    #[error("expected samples that are not mixed (mixup) in training on a GPU, got mixed ones")]
    MixedOnGpu,
    /// What steps on a GPU do not compute.
    #[error("expected {expected} in training on a GPU, got {got}")]
    OnGpu {
        /// What they compute.
        expected: &'static str,
        /// What was asked for.
        got: &'static str,
    },
    /// What several ranks cannot train together, or not on as many.
    #[error("expected {expected}, got {got}")]
    Ranks {
        /// What they can.
        expected: String,
        /// What was asked for.
        got: String,
    },
    /// A run folder that cannot be read or written, or is not as it was written.
    #[error(transparent)]
    Run(#[from] vit_run::Error),
    /// Threads that cannot be started.
    #[error("cannot start {threads} threads")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        source: rayon::ThreadPoolBuildError,
    },
    /// A tensor operation that failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Whether bytes of a run were read and are not those that were written ([`vit_run::Error::is_damage`]).
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Run(error) if error.is_damage())
    }
}
