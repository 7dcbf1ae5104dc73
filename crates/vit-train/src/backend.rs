//! How a step is taken: what the loop asks of a kind of device.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{Result as TensorResult, Tensor};

use crate::averages::Averages;
use crate::evaluation::IsOver;
use crate::sums::Sums;
use crate::{Collective, Data, Error, Group, Loss, Model, NamedVars, Scores, TrainConfig};

/// What is trained, by what, and how: the same for every backend.
pub(crate) struct Task {
    pub(crate) config: TrainConfig,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) loss: Arc<dyn Loss>,
    /// The parameters that are not frozen, sorted by name.
    pub(crate) trained: NamedVars,
    /// Theirs, in the same order.
    pub(crate) groups: Vec<Group>,
    /// The frozen ones.
    pub(crate) frozen: NamedVars,
    /// The EMA of the weights, if there is one.
    pub(crate) averages: Option<Averages>,
    /// Who trains together.
    pub(crate) ranks: Arc<dyn Collective>,
}

/// A step to take.
pub(crate) struct StepToTake<'a> {
    /// From 1 over the whole run.
    pub(crate) step: u64,
    /// From 1.
    pub(crate) epoch: u64,
    /// Before the scale of a group.
    pub(crate) lr: f64,
    /// The samples of it, in order.
    pub(crate) samples: &'a [u32],
    /// Those of the step after it, if the same epoch has one.
    pub(crate) next: &'a [u32],
    /// Whether a record is due after it.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU tells after each step"))]
    pub(crate) is_due: bool,
    /// Whether this rank wants the run to end.
    pub(crate) is_over: IsOver<'a>,
}

/// A step that was taken.
pub(crate) struct Taken {
    /// What it has come to; where that would have to be waited for, nothing, until a record is due, and then the sum.
    pub(crate) sums: Sums,
    /// Whether any of several ranks wants the run to end.
    pub(crate) ends: bool,
}

impl StepToTake<'_> {
    /// Why it cannot be taken.
    pub(crate) fn not_finite(&self, what: &str, value: f64) -> Error {
        Error::NotFinite { step: self.step, epoch: self.epoch, what: what.to_owned(), value }
    }
}

/// Evaluates some samples; none once the evaluation is broken off.
pub(crate) type EvaluateBatch<'a> = &'a (dyn Fn(&[u32]) -> TensorResult<Option<Scores>> + Sync);

/// Takes steps on a kind of device: on the CPU in shards, on a GPU as a recorded graph.
pub(crate) trait StepBackend: Send {
    /// Whether it wants to be called on the trainer's threads; else on the thread that calls the trainer.
    fn is_pooled(&self) -> bool;

    /// Makes ready for a run on this data.
    fn begin_run(&mut self, _task: &Task, _data: &dyn Data) -> Result<(), Error> {
        Ok(())
    }

    /// Begins an epoch, or what is left of one, with the order of its samples. Its first step is `first`, and it has a
    /// learning rate for each.
    fn begin_epoch(
        &mut self,
        _task: &Task,
        _first: u64,
        _rates: &[f64],
        _order: &[u32],
    ) -> Result<(), Error> {
        Ok(())
    }

    /// Changes the learning rates that [`begin_epoch`](Self::begin_epoch) was given.
    fn set_rates(&mut self, _task: &Task, _first: u64, _rates: &[f64]) -> Result<(), Error> {
        Ok(())
    }

    /// Takes a step.
    fn step(&mut self, task: &Task, step: &StepToTake<'_>, data: &dyn Data)
    -> Result<Taken, Error>;

    /// What the steps have come to that have given nothing yet.
    fn take_sums(&mut self, _task: &Task, _epoch: u64) -> Result<Sums, Error> {
        Ok(Sums::default())
    }

    /// For how long steps have waited for batches since this was asked last.
    fn take_waited(&mut self) -> Duration;

    /// The optimiser's moments, each in the order of the trained parameters, on the CPU; none before the first step. Of several
    /// ranks, all call this, and rank 0 gets them.
    fn moments(&self, task: &Task) -> Result<Vec<Vec<Tensor>>, Error>;

    /// Goes on after so many steps with these moments.
    fn resume(&mut self, task: &Task, step: u64, moments: Vec<Vec<Tensor>>) -> Result<(), Error>;

    /// Evaluates this rank's part of the samples `0..len` batch by batch, as many at once as suits the device, and gives what each
    /// came to, in order; a missing one is the last.
    fn evaluate(
        &self,
        task: &Task,
        len: usize,
        batch: EvaluateBatch<'_>,
    ) -> TensorResult<Vec<Option<Scores>>>;
}
