//! Observers follow a run and can steer it.

use candle_core::Tensor;

use crate::{EpochMetrics, Error, NamedVars, Record, TrainState};

/// A point from which a run can resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// After a step. After an epoch's last step only if the observer ends the run there; the evaluation is then
    /// repeated on resume.
    Step {
        /// The step, from 1 over the whole run.
        step: u64,
        /// Whether the observer ends the run there.
        is_last: bool,
    },
    /// After an epoch, with its evaluation and record.
    Epoch {
        /// Its last step.
        step: u64,
        /// Whether the run ends with this epoch.
        is_last: bool,
    },
}

impl Checkpoint {
    /// The last completed step, from 1 over the whole run.
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

/// Progress of a run after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The step, from 1 over the whole run.
    pub step: u64,
    /// Steps of the whole run, unless it ends early.
    pub steps: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The step within the epoch, from 1.
    pub step_of_epoch: u64,
    /// Steps of the epoch, unless it ends early.
    pub steps_of_epoch: u64,
    /// Mean loss and accuracy over the epoch so far. On a GPU they are updated only when a record is due.
    pub loss_and_accuracy: Option<(f64, f64)>,
}

/// A completed step, with controls for what follows.
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

    /// The step's learning rate.
    #[must_use]
    pub const fn lr(&self) -> f64 {
        self.lr
    }

    /// Current factor of the schedule's learning rate: 1 unless [set](Self::set_lr_scale).
    #[must_use]
    pub const fn lr_scale(&self) -> f64 {
        self.lr_scale
    }

    /// Sets the factor of the schedule's learning rate from the next step on. Checkpoints save it.
    pub const fn set_lr_scale(&mut self, lr_scale: f64) {
        self.lr_scale = lr_scale;
    }

    /// The weights that an evaluation uses: the EMA if there is one.
    #[must_use]
    pub const fn weights(&self) -> &NamedVars {
        self.weights
    }

    /// Requests an evaluation now, reported to [`Observer::evaluated`]. At the end of an epoch it is the epoch's own.
    pub const fn evaluate(&mut self) {
        self.evaluates = true;
    }

    /// Ends the run, with a record of this epoch.
    pub const fn stop(&mut self) {
        self.stops = true;
    }
}

/// Loss and accuracy on some samples.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scores {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// Number of correctly classified samples.
    pub correct: usize,
    /// Number of samples.
    pub samples: usize,
    /// Outputs and targets, batch by batch in order, if [`Observer::wants_outputs`].
    pub outputs: Vec<(Tensor, Vec<Tensor>)>,
}

impl Scores {
    /// Mean loss of a sample; NaN without samples.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Share of correctly classified samples; NaN without samples.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}

/// The result of an evaluation.
#[derive(Debug)]
#[non_exhaustive]
pub struct Evaluated<'a> {
    /// The last step before the evaluation, from 1 over the whole run.
    pub step: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The evaluated weights: the EMA if there is one.
    pub weights: &'a NamedVars,
    /// Scores on the validation split.
    pub val: &'a Scores,
    /// Scores on the test split.
    pub test: &'a Scores,
}

/// Follows a run and can steer it; called on one of the trainer's threads.
///
/// With several [ranks](crate::TrainerBuilder::ranks), each rank's observer receives the same calls. Only rank 0's
/// requests count, except [`ending`](Self::ending), with which any rank ends the run.
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
    /// The error of its methods, and so of a run.
    type Error: From<Error> + Send;

    /// Called after a step, before its record if one is due. After [`AfterStep::stop`] the run ends with its epoch's
    /// record.
    ///
    /// # Errors
    /// Any error ends the run.
    fn after_step(&mut self, _step: &mut AfterStep<'_>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Called with each record.
    ///
    /// # Errors
    /// Any error ends the run.
    fn record(&mut self, _record: &Record) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Called after each step.
    fn progress(&mut self, _progress: &Progress) {}

    /// Called when an evaluation begins.
    fn evaluating(&mut self) {}

    /// Whether [`evaluated`](Self::evaluated) receives the model's outputs, which stay in memory until then. With
    /// several ranks, each receives the outputs of its own samples.
    fn wants_outputs(&self) -> bool {
        false
    }

    /// Called after an evaluation: an epoch's, before its record, or a [requested](AfterStep::evaluate) one.
    ///
    /// # Errors
    /// Any error ends the run.
    fn evaluated(&mut self, _evaluated: &Evaluated<'_>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Returns a thread-safe predicate that is true once the run should end. It is checked before each part of an
    /// evaluation, which then stops and is repeated on resume, and after an epoch's record.
    fn ending(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        Box::new(|| false)
    }

    /// Called before the record of an epoch whose weights are the best so far on the validation split.
    ///
    /// # Errors
    /// Any error ends the run.
    fn best(&mut self, _epoch: &EpochMetrics) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Whether [`checkpoint`](Self::checkpoint), called next for this point, will use the state. Default: yes. With
    /// several ranks only rank 0 is asked, and all ranks then collect the state, so return `false` if it will not be
    /// saved.
    fn wants_state(&mut self, _at: Checkpoint) -> bool {
        true
    }

    /// Called at a point from which the run can resume. `state` returns everything needed for that; it copies
    /// parameters and moments, so call it only to save them. After a step, [`after_step`](Self::after_step) and any
    /// record come first.
    ///
    /// # Errors
    /// Any error ends the run.
    fn checkpoint(
        &mut self,
        _at: Checkpoint,
        _state: &mut dyn FnMut() -> Result<TrainState, Error>,
    ) -> Result<(), Self::Error> {
        Ok(())
    }
}
