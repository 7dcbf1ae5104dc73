//! What a trainer is given: a model, samples, and someone to tell.

use std::ops::ControlFlow;

use candle_core::{Result as TensorResult, Tensor, bail};
use vit_ops::Mode;

use crate::{EpochMetrics, Error, Mixed, Record, TrainState};

/// What is trained: a function from (images, mode) to logits.
pub trait Forward: Fn(&Tensor, Mode) -> TensorResult<Tensor> + Send + Sync {}

impl<F: Fn(&Tensor, Mode) -> TensorResult<Tensor> + Send + Sync> Forward for F {}

/// Some samples.
#[derive(Clone, Debug)]
pub struct Batch {
    /// (batch, ...)
    pub images: Tensor,
    /// (batch) of `u32`
    pub labels: Tensor,
    /// What else the samples are, where each is two mixed; looked at in training alone.
    pub mixed: Option<Mixed>,
}

/// Images of one byte a pixel, which a GPU can keep: a batch is nothing but their bytes, each through a table.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// u8 (count, channels * height * width)
    pub pixels: Tensor,
    /// u8 (count)
    pub labels: Tensor,
    /// What each byte is normalised to.
    pub table: &'static [f32; 256],
    /// Channels, height and width.
    pub shape: (usize, usize, usize),
}

/// What is trained on: samples by index, and the order of an epoch.
pub trait Data: Send + Sync {
    /// The training samples of an epoch (from 1), in order.
    fn order(&self, epoch: u64) -> Vec<u32>;

    /// Some training samples, as they are to be in this epoch (from 1).
    ///
    /// # Errors
    /// If a sample cannot be given.
    fn train_batch(&self, epoch: u64, indices: &[u32]) -> TensorResult<Batch>;

    /// All samples that an order may name, if [`train_batch`](Self::train_batch) changes nothing of them.
    fn train_bytes(&self) -> Option<Bytes> {
        None
    }

    /// Number of validation samples, which are neither trained on nor tested with: choices are made by them.
    fn val_len(&self) -> usize {
        0
    }

    /// Some validation samples.
    ///
    /// # Errors
    /// If a sample cannot be given.
    fn val_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        bail!("expected no validation samples to be asked for, got {}", indices.len())
    }

    /// Number of test samples.
    fn test_len(&self) -> usize;

    /// Some test samples.
    ///
    /// # Errors
    /// If a sample cannot be given.
    fn test_batch(&self, indices: &[u32]) -> TensorResult<Batch>;
}

/// Where a run can be taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// After a step; after an epoch's last, whose evaluation then comes again, only where the observer has ended the run.
    Step {
        /// The step, from 1 over the whole run.
        step: u64,
        /// Whether the observer has ended the run there.
        is_last: bool,
    },
    /// After an epoch, its evaluation and its record.
    Epoch {
        /// Its last step.
        step: u64,
        /// Whether the run ends with it.
        is_last: bool,
    },
}

impl Checkpoint {
    /// The last step that was taken, from 1 over the whole run.
    #[must_use]
    pub const fn step(self) -> u64 {
        let (Self::Step { step, .. } | Self::Epoch { step, .. }) = self;
        step
    }

    /// Whether the run ends here.
    #[must_use]
    pub const fn is_last(self) -> bool {
        let (Self::Step { is_last, .. } | Self::Epoch { is_last, .. }) = self;
        is_last
    }
}

/// How far a run has come, after a step of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The step, from 1 over the whole run.
    pub step: u64,
    /// Steps of the whole run, if nothing ends it early.
    pub steps: u64,
    /// Its epoch, from 1.
    pub epoch: u64,
    /// The step, from 1 in its epoch.
    pub step_of_epoch: u64,
    /// Steps of the epoch, if nothing ends it early.
    pub steps_of_epoch: u64,
    /// Mean loss of a sample and share of samples classified right, over the epoch so far. On a GPU they are known where
    /// a record is due, and stay what they were until the next.
    pub loss_and_accuracy: Option<(f64, f64)>,
}

/// Who is told of a run as it goes, and may end it; from a thread of the trainer's.
pub trait Observer: Send {
    /// What its methods fail with; a run fails with the same.
    type Error: From<Error> + Send;

    /// A record, as it comes.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn record(&mut self, record: &Record) -> Result<(), Self::Error>;

    /// How far the run has come, after each step.
    fn progress(&mut self, _progress: &Progress) {}

    /// The steps of an epoch are done, and evaluation begins.
    fn evaluating(&mut self) {}

    /// What tells, on any thread, whether the run is to end soon. It is asked before each part of an evaluation, which is
    /// broken off then, and after an epoch's record; the evaluation comes again once there was a checkpoint.
    fn ending(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        Box::new(|| false)
    }

    /// An epoch ended whose parameters are the best so far on the validation samples, before its record.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn best(&mut self, _epoch: &EpochMetrics) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The run can be taken up again from here. What `state` gives is all that is needed for that; it takes the time of
    /// a copy of parameters and moments, so it is called only where that is to be kept. Between a step and its
    /// checkpoint come [`after_step`](Self::after_step) and its record, where one is due.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn checkpoint(
        &mut self,
        _at: Checkpoint,
        _state: &mut dyn FnMut() -> Result<TrainState, Error>,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A step was taken, `step` from 1 over the whole run; its record, where one is due, comes next. After a break, the run
    /// ends with its epoch's record.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn after_step(&mut self, step: u64) -> Result<ControlFlow<()>, Self::Error>;
}
