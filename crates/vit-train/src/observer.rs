//! Who follows a run, and may change its course.

use candle_core::Tensor;

use crate::{EpochMetrics, Error, NamedVars, Record, TrainState};

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

/// A step that was taken, and what comes after it.
#[derive(Debug)]
pub struct AfterStep<'a> {
    pub(crate) step: u64,
    pub(crate) lr: f64,
    pub(crate) lr_scale: f64,
    pub(crate) weights: &'a NamedVars,
    pub(crate) stops: bool,
    pub(crate) evaluates: bool,
}

impl AfterStep<'_> {
    /// The step, from 1 over the whole run.
    #[must_use]
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// The learning rate that it was taken with.
    #[must_use]
    pub const fn lr(&self) -> f64 {
        self.lr
    }

    /// What the schedule's learning rate is multiplied by: 1, or what was [set](Self::set_lr_scale) before.
    #[must_use]
    pub const fn lr_scale(&self) -> f64 {
        self.lr_scale
    }

    /// Multiplies the schedule's learning rate by this from the next step on. Checkpoints hold it.
    pub const fn set_lr_scale(&mut self, lr_scale: f64) {
        self.lr_scale = lr_scale;
    }

    /// The weights that an evaluation would see: the EMA of the weights where there is one.
    #[must_use]
    pub const fn weights(&self) -> &NamedVars {
        self.weights
    }

    /// Asks for an evaluation now; [`Observer::evaluated`] gets what it gives. At the end of an epoch it is the epoch's.
    pub const fn evaluate(&mut self) {
        self.evaluates = true;
    }

    /// Ends the run with the record of this epoch.
    pub const fn stop(&mut self) {
        self.stops = true;
    }
}

/// Loss and accuracy on some samples, without gradient.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scores {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// Number of samples that were classified right.
    pub correct: usize,
    /// Number of samples.
    pub samples: usize,
    /// Outputs of the model and targets, batch by batch in order, where [`Observer::wants_outputs`].
    pub outputs: Vec<(Tensor, Vec<Tensor>)>,
}

impl Scores {
    /// Mean loss of a sample; NaN without samples.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Share of samples classified right; NaN without samples.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}

/// What an evaluation gave.
#[derive(Debug)]
#[non_exhaustive]
pub struct Evaluated<'a> {
    /// The last step before it, from 1 over the whole run.
    pub step: u64,
    /// Its epoch, from 1.
    pub epoch: u64,
    /// The weights that were evaluated: the EMA of the weights where there is one.
    pub weights: &'a NamedVars,
    /// On the validation samples.
    pub val: &'a Scores,
    /// On the test samples.
    pub test: &'a Scores,
}

/// Follows a run, and may change its course; called from a thread of the trainer's.
///
/// Of several [ranks](crate::TrainerBuilder::ranks), each has an observer that hears the same. What rank 0's asks for is done
/// on all of them; the others' requests are ignored, but for [`ending`](Self::ending), which ends the run on any.
///
/// ```
/// use vit_train::{AfterStep, Error, Evaluated, Observer};
///
/// /// Evaluates every hundredth step, and halves the learning rate once the test loss rises.
/// #[derive(Default)]
/// struct HalveOnPlateau {
///     best: Option<f64>,
///     is_worse: bool,
/// }
///
/// impl Observer for HalveOnPlateau {
///     type Error = Error;
///     fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<(), Error> {
///         if std::mem::take(&mut self.is_worse) {
///             step.set_lr_scale(step.lr_scale() / 2.0);
///         }
///         if step.step().is_multiple_of(100) {
///             step.evaluate();
///         }
///         Ok(())
///     }
///     fn evaluated(&mut self, evaluated: &Evaluated<'_>) -> Result<(), Error> {
///         let loss = evaluated.test.loss();
///         self.is_worse = self.best.is_some_and(|best| loss > best);
///         self.best = Some(self.best.map_or(loss, |best| best.min(loss)));
///         Ok(())
///     }
/// }
/// # let _ = HalveOnPlateau::default();
/// ```
pub trait Observer: Send {
    /// What its methods fail with; a run fails with the same.
    type Error: From<Error> + Send;

    /// A step was taken; its record, where one is due, comes next. After [`AfterStep::stop`], the run ends with its epoch's
    /// record.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn after_step(&mut self, _step: &mut AfterStep<'_>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A record, as it comes.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn record(&mut self, _record: &Record) -> Result<(), Self::Error> {
        Ok(())
    }

    /// How far the run has come, after each step.
    fn progress(&mut self, _progress: &Progress) {}

    /// An evaluation begins.
    fn evaluating(&mut self) {}

    /// Whether [`evaluated`](Self::evaluated) gets the outputs of the model: they stay in memory until then. Of several ranks,
    /// each gets those of its own part of the samples.
    fn wants_outputs(&self) -> bool {
        false
    }

    /// An evaluation has ended: that of an epoch, before its record, or one that was [asked for](AfterStep::evaluate).
    ///
    /// # Errors
    /// Whatever ends the run.
    fn evaluated(&mut self, _evaluated: &Evaluated<'_>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Returns a thread-safe predicate that is true once the run should end. It is asked before each part of an evaluation,
    /// which is broken off then, and after an epoch's record; the evaluation comes again once there was a checkpoint.
    fn ending(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        Box::new(|| false)
    }

    /// An epoch ended whose weights are the best so far on the validation samples, before its record.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn best(&mut self, _epoch: &EpochMetrics) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Whether [`checkpoint`](Self::checkpoint), which comes next for this place, will ask for the state. Default: yes. Of several
    /// ranks, rank 0 is asked, and all take part in giving it the state: so say no where it is not to be kept.
    fn wants_state(&mut self, _at: Checkpoint) -> bool {
        true
    }

    /// The run can be taken up again from here. What `state` gives is all that is needed for that; it takes the time of
    /// a copy of parameters and moments, so call it only where that is to be kept. Between a step and its checkpoint come
    /// [`after_step`](Self::after_step) and its record, where one is due.
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
}
