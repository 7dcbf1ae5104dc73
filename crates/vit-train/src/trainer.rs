//! The loop: batches cut into shards, shards over threads, gradients added in order, one step at a time.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Result as TensorResult, Tensor};
use rayon::ThreadPool;
use rayon::prelude::*;
use tracing::{Span, debug_span, trace_span};
use vit_ops::Mode;
use vit_random::Random;

use crate::averages::Averages;
use crate::best::Best;
use crate::evaluation::{Evaluation, IsOver, evaluate_here, evaluate_on_gpu};
use crate::gradients::Summed;
use crate::on_gpu::OnGpu;
use crate::shards::{Shard, shards, train_shard};
use crate::state::{self, Place, TrainState, digest_of_order};
use crate::sums::Sums;
use crate::threads::thread_pool;
use crate::{
    Batch, Checkpoint, Data, EpochMetrics, Error, Forward, Observer, Optimizer, Parameters,
    Progress, Record, StepMetrics, TrainConfig, gradients,
};

/// A model being trained.
pub struct Trainer<F> {
    config: TrainConfig,
    forward: F,
    parameters: Parameters,
    optimizer: Optimizer,
    averages: Option<Averages>,
    threads: Arc<ThreadPool>,
    /// Where steps are recorded and repeated, if the parameters are on a GPU.
    on_gpu: Option<OnGpu>,
    step: u64,
    /// Where the next run begins, if not at the beginning.
    resumed: Option<(Place, String)>,
    /// How many a whole run takes.
    steps: u64,
}

impl<F: Forward> Trainer<F> {
    /// A trainer of `parameters`, which `forward` uses, on so many threads; on a GPU, on the thread that calls
    /// [`run`](Self::run). Such a device is one of `vit_ops::cuda::open`.
    ///
    /// # Errors
    /// If a setting is out of range, or the threads cannot be started.
    pub fn new(
        config: TrainConfig,
        forward: F,
        mut parameters: Parameters,
        threads: usize,
    ) -> Result<Self, Error> {
        config.check()?;
        parameters.sort_by(|(name, _), (other, _)| name.cmp(other));
        let optimizer = Optimizer::new(config.optimizer, &parameters)?;
        let averages = config.ema.map(|decay| Averages::new(decay, &parameters)).transpose()?;
        let threads = Arc::new(thread_pool(threads)?);
        Ok(Self {
            config,
            forward,
            parameters,
            optimizer,
            averages,
            threads,
            on_gpu: None,
            step: 0,
            resumed: None,
            steps: 0,
        })
    }

    /// The same trainer; weight decay that is on matrices alone leaves the parameters of these names alone too.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn sparing(mut self, names: &[&str]) -> Result<Self, Error> {
        self.optimizer = Optimizer::sparing(self.config.optimizer, &self.parameters, names)?;
        Ok(self)
    }

    /// The parameters that are evaluated, and so to be kept: their moving average where the configuration has one,
    /// else those that are trained. They change as training goes on.
    #[must_use]
    pub fn kept(&self) -> Parameters {
        self.averages.as_ref().map_or(&self.parameters, Averages::parameters).clone()
    }

    /// Goes on from a state, to the same bits as a run that was never interrupted: the next [`run`](Self::run) begins
    /// there. Configuration and data must be those of the run that the state is of.
    ///
    /// # Errors
    /// If the state is of other parameters.
    pub fn resume(&mut self, state: &TrainState) -> Result<(), Error> {
        let TrainState { place, order, parameters, averages, moments } = state;
        state::set(&self.parameters, parameters, "a parameter")?;
        match (&mut self.averages, averages) {
            (Some(ours), Some(averages)) => {
                state::set(ours.parameters(), averages, "an average")?;
                ours.resume(place.step);
            }
            (None, None) => {}
            (ours, _) => {
                let [some, none] = ["moving averages", "none"].map(str::to_owned);
                let (expected, got) = if ours.is_some() { (some, none) } else { (none, some) };
                return Err(Error::State { expected, got });
            }
        }
        let moments = moments.as_ref().map(|[first, second]| {
            let first = state::in_order(first, &self.parameters, "a first moment")?;
            let second = state::in_order(second, &self.parameters, "a second moment")?;
            Ok::<_, Error>(first.into_iter().cloned().zip(second.into_iter().cloned()))
        });
        let moments: Option<Vec<[Tensor; 2]>> =
            moments.transpose()?.map(|pairs| pairs.map(<[Tensor; 2]>::from).collect());
        self.optimizer.resume(place.step, moments.as_deref())?;
        self.on_gpu = None;
        self.step = place.step;
        self.resumed = Some((*place, order.clone()));
        Ok(())
    }

    /// Trains until the last epoch or step, or until the observer breaks.
    ///
    /// # Errors
    /// If there is no whole batch, a parameter has no gradient, the loss or a gradient is not finite, or the
    /// observer fails.
    pub fn run<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        let earlier = self.on_gpu.take();
        self.on_gpu = OnGpu::of(&self.trained(), data, earlier)?;
        if self.on_gpu.is_some() {
            // What is recorded there belongs to the thread that recorded it.
            return self.run_here(data, observer);
        }
        // All of it on the pool: a thread that is outside would have to be woken at each step.
        Arc::clone(&self.threads).install(|| self.run_here(data, observer))
    }

    fn run_here<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        let _run = debug_span!("run").entered();
        let an_epoch = (data.order(1).len() / self.config.samples_of_step()) as u64;
        let steps = self.config.epochs.saturating_mul(an_epoch);
        self.steps = self.config.max_steps.map_or(steps, |last| last.min(steps));
        let mut begun = Place::before_epoch(1, self.step, Best::default());
        if let Some((place, order)) = self.resumed.take() {
            let epoch = place.epoch;
            // Of an epoch whose steps are all taken, the evaluation is left.
            if place.step_of_epoch == 0 && self.is_past(epoch.saturating_sub(1), &place.best) {
                return Ok(());
            }
            let here = digest_of_order(&data.order(epoch));
            if here != order {
                let expected = format!("samples of epoch {epoch} in an order of SHA-256 {here}");
                return Err(Error::State { expected, got: order }.into());
            }
            begun = place;
        }
        let is_over = observer.ending();
        while begun.epoch <= self.config.epochs {
            let (epoch, mut best) = (begun.epoch, begun.best);
            let (metrics, flow) = self.epoch(begun, data, observer, &*is_over)?;
            // An epoch that was broken off goes on when the run is taken up again: it is not one of those to choose from.
            if flow.is_continue() && best.improves(&metrics) {
                observer.best(&metrics)?;
            }
            observer.record(&Record::Epoch(metrics))?;
            if flow.is_break() {
                break;
            }
            begun = Place::before_epoch(epoch + 1, self.step, best);
            let is_last = self.is_past(epoch, &best) || is_over();
            let at = Checkpoint::Epoch { step: self.step, is_last };
            observer.checkpoint(at, &mut || self.state(begun, &data.order(epoch + 1)))?;
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Whether a run has ended with this epoch.
    fn is_past(&self, epoch: u64, best: &Best) -> bool {
        epoch >= self.config.epochs
            || self.is_full()
            || self.config.patience.is_some_and(|most| best.is_past(epoch, most))
    }

    /// Whether as many steps were taken as there may be.
    fn is_full(&self) -> bool {
        self.config.max_steps.is_some_and(|last| self.step >= last)
    }

    /// An epoch, or what is left of it, and whether the observer lets the run go on after it.
    fn epoch<O: Observer>(
        &mut self,
        begun: Place,
        data: &dyn Data,
        observer: &mut O,
        is_over: IsOver<'_>,
    ) -> Result<(EpochMetrics, ControlFlow<()>), O::Error> {
        let since = Instant::now();
        let epoch = begun.epoch;
        let _epoch = debug_span!("epoch", epoch).entered();
        let batch_size = self.config.samples_of_step();
        let order = data.order(epoch);
        if order.len() < batch_size {
            return Err(Error::NoBatch { batch_size, samples: order.len() }.into());
        }
        let mut at = begun;
        let before = at.of_epoch.samples;
        let mut flow = ControlFlow::Continue(());
        let steps = (order.len() / batch_size) as u64;
        let taken = if self.is_full() { steps } else { at.step_of_epoch.min(steps) };
        let left = &order[taken as usize * batch_size..];
        self.begin_on_gpu(left)?;
        for batch in left.chunks_exact(batch_size) {
            at.step_of_epoch += 1;
            let is_due = at.step_of_epoch.is_multiple_of(self.config.log_every);
            let step = self.take_step(epoch, batch, data, is_due)?;
            flow = observer.after_step(self.step)?;
            at.of_epoch.add(&step);
            at.since_record.add(&step);
            if is_due {
                observer.record(&Record::Step(StepMetrics {
                    step: self.step,
                    epoch,
                    loss: at.since_record.loss(),
                    lr: self.optimizer.lr(),
                }))?;
                at.since_record = Sums::default();
            }
            observer.progress(&Progress {
                step: self.step,
                steps: self.steps,
                epoch,
                step_of_epoch: at.step_of_epoch,
                steps_of_epoch: steps,
                loss_and_accuracy: at.of_epoch.means(),
            });
            let is_last = flow.is_break();
            let is_full = self.is_full();
            if is_last || !(is_full || at.step_of_epoch == steps) {
                at.step = self.step;
                let checkpoint = Checkpoint::Step { step: self.step, is_last };
                observer.checkpoint(checkpoint, &mut || {
                    let rest = self.rest_of_steps(epoch)?;
                    at.of_epoch.add(&rest);
                    at.since_record.add(&rest);
                    self.state(at, &order)
                })?;
            }
            if is_last || is_full {
                break;
            }
        }
        at.of_epoch.add(&self.rest_of_steps(epoch)?);
        let loop_seconds = since.elapsed().as_secs_f64();
        observer.evaluating();
        let is_saved = flow.is_break();
        let (val, test) = match self.evaluate(data, &|| !is_saved && is_over())? {
            Some(found) => found,
            None => {
                flow = ControlFlow::Break(());
                at.step = self.step;
                let checkpoint = Checkpoint::Step { step: self.step, is_last: true };
                observer.checkpoint(checkpoint, &mut || self.state(at, &order))?;
                self.evaluate(data, &|| false)?.expect("nothing breaks it off")
            }
        };
        // The last step's update is seen here alone.
        for (what, of) in [("validation loss", &val), ("test loss", &test)] {
            if of.total() > 0 && !of.loss().is_finite() {
                return Err(self.not_finite(epoch, what, of.loss()).into());
            }
        }
        let validated = val.total() > 0;
        let metrics = EpochMetrics {
            epoch,
            step: self.step,
            train_loss: at.of_epoch.loss(),
            train_accuracy: at.of_epoch.accuracy(),
            val_loss: validated.then(|| val.loss()),
            val_accuracy: validated.then(|| val.accuracy()),
            test_loss: Some(test.loss()),
            test_accuracy: Some(test.accuracy()),
            images_per_second: (at.of_epoch.samples - before) as f64 / loop_seconds,
            seconds: since.elapsed().as_secs_f64(),
        };
        Ok((metrics, flow))
    }

    /// All that the run is now.
    fn state(&self, place: Place, order: &[u32]) -> Result<TrainState, Error> {
        let moments = match &self.on_gpu {
            Some(on_gpu) => Some(on_gpu.moments(&self.parameters)?),
            None => self.optimizer.moments()?,
        };
        let names = || self.parameters.iter().map(|(name, _)| name.clone());
        let moments = moments.map(|moments| {
            let (first, second): (Vec<_>, Vec<_>) = moments.into_iter().map(Into::into).unzip();
            [first, second].map(|moments| names().zip(moments).collect())
        });
        let averages = self.averages.as_ref().map(|them| state::values(them.parameters()));
        Ok(TrainState {
            place,
            order: digest_of_order(order),
            parameters: state::values(&self.parameters)?,
            averages: averages.transpose()?,
            moments,
        })
    }

    /// Evaluates the parameters that are kept: on the validation samples, then on those of the test; none if it is broken off.
    fn evaluate(
        &self,
        data: &dyn Data,
        is_over: IsOver<'_>,
    ) -> Result<Option<(Evaluation, Evaluation)>, Error> {
        let _evaluation = debug_span!("evaluation").entered();
        let swap = || self.averages.as_ref().map_or(Ok(()), |them| them.swap(&self.parameters));
        swap()?;
        let val = |indices: &[u32]| data.val_batch(indices);
        let val = self.evaluate_samples(data.val_len(), val, is_over);
        let test = |indices: &[u32]| data.test_batch(indices);
        let test = self.evaluate_samples(data.test_len(), test, is_over);
        swap()?;
        Ok(val?.zip(test?))
    }

    fn evaluate_samples(
        &self,
        len: usize,
        batch: impl Fn(&[u32]) -> TensorResult<Batch> + Sync,
        is_over: IsOver<'_>,
    ) -> TensorResult<Option<Evaluation>> {
        if self.on_gpu.is_none() {
            return evaluate_here(&self.forward, len, batch, is_over);
        }
        // A pass that records nothing takes less memory than a step of as many samples, for each block after the first.
        let at_once = 1000.min(4 * self.config.batch_size);
        evaluate_on_gpu(&self.forward, len, at_once, batch, is_over)
    }

    fn not_finite(&self, epoch: u64, what: &str, value: f64) -> Error {
        Error::NotFinite { step: self.step, epoch, what: what.to_owned(), value }
    }

    /// What steps on a GPU are told.
    fn trained(&self) -> Trained<'_, F> {
        let Self { config, forward, parameters, optimizer, averages, .. } = self;
        Trained { config, forward, parameters, optimizer, averages: averages.as_ref() }
    }

    /// Gives the GPU, if there is one, what is left of the order of an epoch and the numbers of each of its steps.
    fn begin_on_gpu(&mut self, order: &[u32]) -> Result<(), Error> {
        if order.len() < self.config.samples_of_step() {
            return Ok(());
        }
        let Some(mut on_gpu) = self.on_gpu.take() else { return Ok(()) };
        let begun = on_gpu.begin_epoch(&self.trained(), (self.step + 1, self.steps), order);
        self.on_gpu = Some(on_gpu);
        begun
    }

    /// A step on these samples. On a GPU it is launched, and gives what the steps before it and itself have come to when
    /// that is due, else nothing yet.
    fn take_step(
        &mut self,
        epoch: u64,
        samples: &[u32],
        data: &dyn Data,
        is_due: bool,
    ) -> Result<Sums, Error> {
        self.step += 1;
        let _step = trace_span!("step", step = self.step).entered();
        let lr = self.config.schedule.lr(self.config.optimizer.lr, self.step, self.steps);
        self.optimizer.set_lr(lr);
        let Some(mut on_gpu) = self.on_gpu.take() else {
            return self.train_step(epoch, samples, data);
        };
        let launched = on_gpu.launch(&self.trained(), (epoch, samples), data);
        self.on_gpu = Some(on_gpu);
        launched?;
        if is_due { self.rest_of_steps(epoch) } else { Ok(Sums::default()) }
    }

    /// What the steps on a GPU have come to that have given nothing yet.
    fn rest_of_steps(&mut self, epoch: u64) -> Result<Sums, Error> {
        let Some(on_gpu) = &mut self.on_gpu else { return Ok(Sums::default()) };
        on_gpu.take(&self.config, &self.parameters, epoch)
    }

    /// A step on these samples, a batch after the other.
    fn train_step(&mut self, epoch: u64, samples: &[u32], data: &dyn Data) -> Result<Sums, Error> {
        let of_step = Span::current();
        let random = Random::new(self.config.seed).at_step(self.step);
        let mut step = Sums { loss_sum: 0.0, correct: 0, samples: samples.len() };
        let mut gradients: Vec<Summed> = Vec::new();
        let batch_size = self.config.batch_size;
        for (first, batch) in (0..).step_by(batch_size).zip(samples.chunks(batch_size)) {
            let ranges = shards(batch.len(), self.config.shards).into_par_iter();
            let results = ranges.map(|range| {
                let _shard = trace_span!(parent: &of_step, "shard", first = range.start).entered();
                let mode = Mode::Train(random.from_sample((first + range.start) as u32));
                let batch =
                    trace_span!("batch").in_scope(|| data.train_batch(epoch, &batch[range]))?;
                let smoothing = self.config.label_smoothing;
                train_shard(&self.forward, &self.parameters, &batch, mode, smoothing)
            });
            let shards: Vec<Shard> = results.collect::<Result<_, Error>>()?;
            step.loss_sum = shards.iter().fold(step.loss_sum, |sum, shard| sum + shard.loss_sum);
            step.correct += shards.iter().map(|shard| shard.correct).sum::<usize>();
            if !step.loss_sum.is_finite() {
                return Err(self.not_finite(epoch, "loss", step.loss_sum));
            }
            // The sum so far goes first: the order of additions is that of one large batch.
            let so_far = gradients.drain(..).map(|gradient| gradient.total).collect::<Vec<_>>();
            let shards = shards.into_iter().map(|shard| shard.gradients);
            let pieces: Vec<_> =
                (!so_far.is_empty()).then_some(so_far).into_iter().chain(shards).collect();
            let last = first + batch.len() == samples.len();
            let scale = if last { 1.0 / samples.len() as f64 } else { 1.0 };
            gradients = trace_span!("sum").in_scope(|| gradients::sum(&pieces, scale))?;
        }
        for ((name, _), gradient) in self.parameters.iter().zip(&gradients) {
            if let Some(value) = gradient.not_finite {
                return Err(self.not_finite(epoch, &format!("gradient of {name}"), value));
            }
        }
        let _update = trace_span!("update").entered();
        let mut gradients: Vec<_> = gradients.into_iter().map(|gradient| gradient.total).collect();
        if let Some(norm) = self.config.clip {
            gradients::clip_gradients(&mut gradients, norm)?;
        }
        self.optimizer.step(&gradients)?;
        if let Some(averages) = &mut self.averages {
            averages.update(&self.parameters)?;
        }
        Ok(step)
    }
}

/// What steps on a GPU are told.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "without a GPU nobody is told"))]
pub(crate) struct Trained<'a, F> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) forward: &'a F,
    pub(crate) parameters: &'a Parameters,
    pub(crate) optimizer: &'a Optimizer,
    pub(crate) averages: Option<&'a Averages>,
}

#[cfg(test)]
mod tests;
