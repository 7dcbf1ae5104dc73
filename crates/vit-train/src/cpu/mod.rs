//! Steps in shards: a batch is divided independently of threads and ranks. A thread takes one shard or several at a time,
//! and gradients are added along a fixed tree of shards.

mod ahead;
mod shards;
mod slices;
mod sum;
mod tree;

use std::ops::Range;
use std::time::Duration;

use candle_core::{Result as TensorResult, Tensor};
use tracing::trace_span;
use vit_ops::Mode;
use vit_random::Random;

use self::ahead::{Ahead, Piece};
use self::shards::{Done, shards, shards_of_pass, train_shards};
use self::slices::Slices;
use self::sum::{Summed, add, scaled_sum};
use self::tree::{Sums as Tree, nodes_up_to};
use crate::backend::{EvaluateBatch, StepBackend, StepToTake, Taken, Task};
use crate::evaluation::{EVALUATION_BATCH, in_parallel};
use crate::sums::Sums;
use crate::threads::Awake;
use crate::{Batch, Data, Error, Optimizer, Scores, clip_gradients};

/// Takes steps on the thread pool that it is called on.
pub(crate) struct CpuBackend {
    optimizer: Optimizer,
    ahead: Ahead,
    awake: Awake,
    /// The division of shards and parameters among several ranks.
    slices: Option<Slices>,
    /// Whether the warning that frozen parameters cost time was logged.
    has_warned: bool,
}

impl CpuBackend {
    /// A backend before its first step.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub(crate) fn new(task: &Task) -> Result<Self, Error> {
        let mut optimizer = Optimizer::of(task.config.optimizer, &task.trained, &task.groups)?;
        let slices = (task.ranks.size() > 1).then(|| Slices::new(task)).transpose()?;
        if let Some(slices) = &slices {
            optimizer = slices.optimizer(optimizer);
        }
        let (ahead, awake) = (Ahead::default(), Awake::default());
        Ok(Self { optimizer, ahead, awake, slices, has_warned: false })
    }

    /// Adds up the results of a step's shards.
    fn sums(&mut self, task: &Task, step: &StepToTake<'_>, all: &[Done]) -> Result<Sums, Error> {
        if !self.has_warned && all.iter().any(|shard| shard.computes_frozen) {
            self.has_warned = true;
            tracing::warn!(
                "the backward pass of {} frozen parameters is computed and not used: have the trainer build the model",
                task.frozen.len()
            );
        }
        let loss_sum = all.iter().fold(0.0, |sum, shard| sum + shard.loss_sum);
        if !loss_sum.is_finite() {
            return Err(step.not_finite("loss", loss_sum));
        }
        let correct = all.iter().map(|shard| shard.correct).sum();
        Ok(Sums { loss_sum, correct, samples: step.samples.len() })
    }

    fn step_alone(
        &mut self,
        task: &Task,
        step: &StepToTake<'_>,
        data: &dyn Data,
    ) -> Result<Taken, Error> {
        let shards = task.config.shards_of_step();
        let tree = Tree::but_the_last(shards);
        let done = train(&mut self.ahead, (task, step, data), 0..shards, &tree)?;
        let sums = self.sums(task, step, &done)?;
        let scale = 1.0 / step.samples.len() as f64;
        let gradients = trace_span!("sum").in_scope(|| scaled_sum(&tree.finish(), scale))?;
        self.update(task, step, gradients)?;
        Ok(Taken { sums, ends: false })
    }

    fn step_of_rank(
        &mut self,
        slices: &mut Slices,
        (task, step, data): (&Task, &StepToTake<'_>, &dyn Data),
    ) -> Result<Taken, Error> {
        let shards = task.config.shards_of_step();
        let tree = Tree::new(shards);
        let done = train(&mut self.ahead, (task, step, data), slices.shards(shards), &tree)?;
        let scale = 1.0 / step.samples.len() as f64;
        let ends = (step.is_over)();
        let (all, gradient, ends) =
            slices.exchange((shards, scale), &done, &tree.finish(), ends)?;
        let sums = self.sums(task, step, &all)?;
        slices.update(task, step, &mut self.optimizer, &gradient)?;
        Ok(Taken { sums, ends })
    }

    /// Updates all parameters with the gradient of a step.
    fn update(
        &mut self,
        task: &Task,
        step: &StepToTake<'_>,
        gradients: Vec<Summed>,
    ) -> Result<(), Error> {
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
        Ok(self.optimizer.step(&gradients)?)
    }
}

/// Computes these shards of a step, while `tree` adds up their gradients; returns each shard's result. Prefetches the
/// next step's shards.
fn train(
    ahead: &mut Ahead,
    (task, step, data): (&Task, &StepToTake<'_>, &dyn Data),
    range: Range<usize>,
    tree: &Tree<Vec<Tensor>>,
) -> Result<Vec<Done>, Error> {
    let random = Random::new(task.config.seed).at_step(step.step);
    let batch_size = task.config.batch_size;
    let of_batch = shards(batch_size, task.config.shards);
    let samples_of = |shard: usize| {
        let first = shard / of_batch.len() * batch_size;
        let Range { start, end } = of_batch[shard % of_batch.len()];
        first + start..first + end
    };
    let piece = |samples: &'_ [u32], shards: Range<usize>| {
        let Range { start: first, .. } = samples_of(shards.start);
        let indices = samples.get(first..samples_of(shards.end - 1).end)?.to_vec();
        let sizes = shards.clone().map(|shard| samples_of(shard).len()).collect();
        Some(Piece { shards, sizes, first, indices })
    };
    // A product of a single row, as of a shard of one sample, has other bits than a row among others.
    let are_joined = of_batch.iter().all(|shard| shard.len() > 1);
    let most = task.samples_of_pass.saturating_mul(of_batch.len()) / batch_size;
    let threads = rayon::current_num_threads();
    let of_pass = if are_joined { shards_of_pass(range.len(), threads, most) } else { 1 };
    // The passes of one of the accumulated batches, which this rank may have in part.
    let pieces = |samples: &'_ [u32], batch: usize| -> Vec<Piece> {
        let [start, end] =
            [batch, batch + 1].map(|batch| (batch * of_batch.len()).clamp(range.start, range.end));
        let nodes = nodes_up_to(of_pass, task.config.shards_of_step(), &(start..end));
        nodes.into_iter().filter_map(|shards| piece(samples, shards)).collect()
    };
    let batches = range.start / of_batch.len()..range.end.div_ceil(of_batch.len());
    // Only the first of the accumulated batches: more would cost memory without being faster.
    let next = pieces(step.next, batches.start);
    let now = batches.flat_map(|batch| pieces(step.samples, batch)).collect();
    let done = ahead.shards((data, step.epoch), now, next, |piece: &Piece, batch: &Batch| {
        let mode = Mode::Train(random.from_sample(piece.first as u32));
        let train = || train_shards(task, &piece.sizes, batch, mode);
        let (done, gradients) = vit_ops::share_pool(train)?;
        tree.add(piece.shards.clone(), gradients, |left, right| add(&left, &right))?;
        Ok(done)
    })?;
    Ok(done.into_iter().flatten().collect())
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

    fn step(
        &mut self,
        task: &Task,
        step: &StepToTake<'_>,
        data: &dyn Data,
    ) -> Result<Taken, Error> {
        self.awake.keep();
        let taken = match self.slices.take() {
            None => self.step_alone(task, step, data)?,
            Some(mut slices) => {
                let taken = self.step_of_rank(&mut slices, (task, step, data));
                self.slices = Some(slices);
                taken?
            }
        };
        if let Some(averages) = &task.averages {
            averages.update(step.step, &task.trained)?;
        }
        Ok(taken)
    }

    fn moments(&self, task: &Task) -> Result<Vec<Vec<Tensor>>, Error> {
        Ok(match &self.slices {
            Some(slices) => slices.moments(task, &self.optimizer)?,
            None => self.optimizer.moments()?,
        })
    }

    fn resume(&mut self, _task: &Task, step: u64, moments: Vec<Vec<Tensor>>) -> Result<(), Error> {
        Ok(self.optimizer.resume(step, &moments)?)
    }

    fn evaluate(
        &self,
        task: &Task,
        len: usize,
        batch: EvaluateBatch<'_>,
    ) -> TensorResult<Vec<Option<Scores>>> {
        let parts = len.div_ceil(EVALUATION_BATCH);
        let (rank, size) = (task.ranks.rank(), task.ranks.size());
        in_parallel(len, rank * parts / size..(rank + 1) * parts / size, batch)
    }
}
