//! Steps in shards: a batch is cut at borders that threads do not set, each shard computed on one thread, and their
//! gradients added in order.

mod ahead;
mod shards;
mod sum;

use std::ops::Range;
use std::time::Duration;

use candle_core::{Result as TensorResult, Tensor};
use tracing::trace_span;
use vit_ops::Mode;
use vit_random::Random;

use self::ahead::{Ahead, Source};
use self::shards::{Shard, train_shard};
use self::sum::{Summed, sum};
use crate::backend::{EvaluateBatch, StepBackend, StepToTake, Task};
use crate::evaluation::in_parallel;
use crate::sums::Sums;
use crate::{Batch, Data, Error, Optimizer, Scores, clip_gradients};

/// Takes steps on the thread pool that it is called on.
pub(crate) struct CpuBackend {
    optimizer: Optimizer,
    ahead: Ahead,
    /// Whether it was said that frozen parameters cost time.
    has_warned: bool,
}

impl CpuBackend {
    /// A backend that has taken no step.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub(crate) fn new(task: &Task) -> Result<Self, Error> {
        let optimizer = Optimizer::of(task.config.optimizer, &task.trained, &task.groups)?;
        Ok(Self { optimizer, ahead: Ahead::default(), has_warned: false })
    }

    /// Loss and correct answers of a step's samples, and its gradient, a batch after the other.
    fn gradients(
        &mut self,
        task: &Task,
        step: &StepToTake<'_>,
        data: &dyn Data,
    ) -> Result<(Sums, Vec<Summed>), Error> {
        let random = Random::new(task.config.seed).at_step(step.step);
        let mut sums = Sums { loss_sum: 0.0, correct: 0, samples: step.samples.len() };
        let mut gradients: Vec<Summed> = Vec::new();
        let batch_size = task.config.batch_size;
        let source = Source { data, epoch: step.epoch, shards: task.config.shards };
        let mut batches = step.samples.chunks(batch_size).peekable();
        for first in (0..).step_by(batch_size) {
            let Some(batch) = batches.next() else { break };
            let next = batches.peek().copied().or_else(|| step.next.chunks(batch_size).next());
            let compute = |range: Range<usize>, batch: &Batch| {
                let mode = Mode::Train(random.from_sample((first + range.start) as u32));
                train_shard(task, batch, mode)
            };
            let of = (batch, next.unwrap_or_default());
            let shards: Vec<Shard> = self.ahead.shards(source, of, compute)?;
            self.warn_of_frozen(&shards, task);
            sums.loss_sum = shards.iter().fold(sums.loss_sum, |sum, shard| sum + shard.loss_sum);
            sums.correct += shards.iter().map(|shard| shard.correct).sum::<usize>();
            if !sums.loss_sum.is_finite() {
                return Err(step.not_finite("loss", sums.loss_sum));
            }
            // The sum so far goes first: the order of additions is that of one large batch.
            let so_far = gradients.drain(..).map(|gradient| gradient.total).collect::<Vec<_>>();
            let shards = shards.into_iter().map(|shard| shard.gradients);
            let pieces: Vec<_> =
                (!so_far.is_empty()).then_some(so_far).into_iter().chain(shards).collect();
            let last = first + batch.len() == step.samples.len();
            let scale = if last { 1.0 / step.samples.len() as f64 } else { 1.0 };
            gradients = trace_span!("sum").in_scope(|| sum(&pieces, scale))?;
        }
        Ok((sums, gradients))
    }

    fn warn_of_frozen(&mut self, shards: &[Shard], task: &Task) {
        if !self.has_warned && shards.iter().any(|shard| shard.computes_frozen) {
            self.has_warned = true;
            tracing::warn!(
                "the backward pass of {} frozen parameters is computed and not used: have the trainer build the model",
                task.frozen.len()
            );
        }
    }
}

impl StepBackend for CpuBackend {
    fn is_pooled(&self) -> bool {
        true
    }

    fn begin_epoch(
        &mut self,
        _task: &Task,
        _first: u64,
        _rates: &[f64],
        _order: &[u32],
    ) -> Result<(), Error> {
        self.ahead.clear();
        Ok(())
    }

    fn take_waited(&mut self) -> Duration {
        self.ahead.take_waited()
    }

    fn step(&mut self, task: &Task, step: &StepToTake<'_>, data: &dyn Data) -> Result<Sums, Error> {
        let (sums, gradients) = self.gradients(task, step, data)?;
        for ((name, _), gradient) in task.trained.iter().zip(&gradients) {
            if let Some(value) = gradient.not_finite {
                return Err(step.not_finite(&format!("gradient of {name}"), value));
            }
        }
        let _update = trace_span!("update").entered();
        let mut gradients: Vec<_> = gradients.into_iter().map(|gradient| gradient.total).collect();
        if let Some(norm) = task.config.clip {
            clip_gradients(&mut gradients, norm)?;
        }
        self.optimizer.set_lr(step.lr);
        self.optimizer.step(&gradients)?;
        if let Some(averages) = &task.averages {
            averages.update(step.step, &task.trained)?;
        }
        Ok(sums)
    }

    fn moments(&self, _task: &Task) -> Result<Vec<Vec<Tensor>>, Error> {
        Ok(self.optimizer.moments()?)
    }

    fn resume(&mut self, _task: &Task, step: u64, moments: Vec<Vec<Tensor>>) -> Result<(), Error> {
        Ok(self.optimizer.resume(step, &moments)?)
    }

    fn evaluate(
        &self,
        _task: &Task,
        len: usize,
        batch: EvaluateBatch<'_>,
    ) -> TensorResult<Vec<Option<Scores>>> {
        in_parallel(len, batch)
    }
}
