//! The interface between the training loop and a kind of device.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{Result as TensorResult, Tensor};

use crate::averages::Averages;
use crate::evaluation::IsOver;
use crate::sums::Sums;
use crate::{Collective, Data, Error, Group, Loss, Model, NamedVars, Scores, TrainConfig};

/// Model, ranks and settings; the same for every backend.
pub(crate) struct Task {
    pub(crate) config: TrainConfig,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) loss: Arc<dyn Loss>,
    /// The parameters that are not frozen, sorted by name.
    pub(crate) trained: NamedVars,
    /// Their groups, in the same order.
    pub(crate) groups: Vec<Group>,
    /// The frozen parameters.
    pub(crate) frozen: NamedVars,
    /// The EMA of the weights, if there is one.
    pub(crate) averages: Option<Averages>,
    /// The ranks that train together.
    pub(crate) ranks: Arc<dyn Collective>,
    /// The most samples in a pass of several shards.
    pub(crate) samples_of_pass: usize,
}

/// The step to take.
pub(crate) struct StepToTake<'a> {
    /// From 1 over the whole run.
    pub(crate) step: u64,
    /// From 1.
    pub(crate) epoch: u64,
    /// Before the group's scale.
    pub(crate) lr: f64,
    /// The step's samples, in order.
    pub(crate) samples: &'a [u32],
    /// The next step's samples, if the epoch has one.
    pub(crate) next: &'a [u32],
    /// Whether a record is due after this step.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "the CPU reports after each step")
    )]
    pub(crate) is_due: bool,
    /// Whether this rank wants the run to end.
    pub(crate) is_over: IsOver<'a>,
}

/// The result of a step.
pub(crate) struct Taken {
    /// Loss and correct answers. A backend that would have to wait for them returns nothing until a record is due, then
    /// their sum.
    pub(crate) sums: Sums,
    /// Whether any rank wants to stop.
    pub(crate) ends: bool,
}

impl StepToTake<'_> {
    /// The error of a step whose `what` is not finite.
    pub(crate) fn not_finite(&self, what: &str, value: f64) -> Error {
        Error::NotFinite { step: self.step, epoch: self.epoch, what: what.to_owned(), value }
    }
}

/// Evaluates some samples; `None` once the evaluation is interrupted.
pub(crate) type EvaluateBatch<'a> = &'a (dyn Fn(&[u32]) -> TensorResult<Option<Scores>> + Sync);

/// Takes steps on a kind of device: in shards on the CPU, as a recorded graph on a GPU.
pub(crate) trait StepBackend: Send {
    /// Whether it runs on the trainer's threads, else on the calling thread.
    fn is_pooled(&self) -> bool;

    /// Prepares for a run on this data.
    fn begin_run(&mut self, _task: &Task, _data: &dyn Data) -> Result<(), Error> {
        Ok(())
    }

    /// Begins an epoch, or the rest of one, with the order of its samples. Its first step is `first`; `rates` has a
    /// learning rate for each step.
    fn begin_epoch(
        &mut self,
        _task: &Task,
        _first: u64,
        _rates: &[f64],
        _order: &[u32],
    ) -> Result<(), Error> {
        Ok(())
    }

    /// Replaces the learning rates given to [`begin_epoch`](Self::begin_epoch).
    fn set_rates(&mut self, _task: &Task, _first: u64, _rates: &[f64]) -> Result<(), Error> {
        Ok(())
    }

    /// Takes a step.
    fn step(&mut self, task: &Task, step: &StepToTake<'_>, data: &dyn Data)
    -> Result<Taken, Error>;

    /// Loss and correct answers of the steps that have not reported theirs.
    fn take_sums(&mut self, _task: &Task, _epoch: u64) -> Result<Sums, Error> {
        Ok(Sums::default())
    }

    /// Time that steps have waited for batches since the last call.
    fn take_waited(&mut self) -> Duration;

    /// The optimiser's moments on the CPU, each kind in the order of the trained parameters; empty before the first
    /// step. All ranks must call this; only rank 0 receives them.
    fn moments(&self, task: &Task) -> Result<Vec<Vec<Tensor>>, Error>;

    /// Continues after step `step` with these moments.
    fn resume(&mut self, task: &Task, step: u64, moments: Vec<Vec<Tensor>>) -> Result<(), Error>;

    /// Evaluates this rank's part of the samples `0..len`, as many batches at once as suit the device. Returns their
    /// scores in order, ending at the first `None`.
    fn evaluate(
        &self,
        task: &Task,
        len: usize,
        batch: EvaluateBatch<'_>,
    ) -> TensorResult<Vec<Option<Scores>>>;
}
