//! The loop: batches cut into shards, shards over threads, gradients added in order, one step at a time.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use rayon::ThreadPool;
use rayon::prelude::*;
use vit_ops::Mode;
#[cfg(feature = "cuda")]
use vit_ops::cuda::Fault;
use vit_random::Random;

use crate::averages::Averages;
use crate::best::Best;
use crate::evaluation::{EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU, Evaluation, evaluate_here};
use crate::gradients::Summed;
#[cfg(feature = "cuda")]
use crate::on_gpu::{self, OnGpu, Taken};
use crate::shards::{Shard, shards, train_shard};
use crate::threads::thread_pool;
use crate::{
    Data, EpochMetrics, Error, Forward, Observer, Optimizer, Parameters, Record, StepMetrics,
    TrainConfig, gradients,
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
    #[cfg(feature = "cuda")]
    on_gpu: Option<OnGpu>,
    step: u64,
    /// How many a whole run takes.
    steps: u64,
}

impl<F: Forward> Trainer<F> {
    /// A trainer of `parameters`, which `forward` uses, on so many threads.
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
            #[cfg(feature = "cuda")]
            on_gpu: None,
            step: 0,
            steps: 0,
        })
    }

    /// The same trainer; weight decay that is on matrices alone leaves the parameters of these names alone too.
    ///
    /// # Errors
    /// If a device has no room for the optimiser's moments.
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

    /// Trains until the last epoch or step, or until the observer breaks.
    ///
    /// # Errors
    /// If there is no whole batch, a parameter has no gradient, the loss or a gradient is not finite, or the
    /// observer fails.
    pub fn run<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        if self.is_on_gpu() {
            // What is recorded there belongs to the thread that recorded it.
            return self.run_here(data, observer);
        }
        // All of it on the pool: a thread that is outside would have to be woken at each step.
        Arc::clone(&self.threads).install(|| self.run_here(data, observer))
    }

    fn run_here<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        let an_epoch = (data.order(1).len() / self.config.samples_of_step()) as u64;
        let steps = self.config.epochs.saturating_mul(an_epoch);
        self.steps = self.config.max_steps.map_or(steps, |last| last.min(steps));
        #[cfg(feature = "cuda")]
        self.prepare_gpu(data)?;
        let mut best = Best::default();
        for epoch in 1..=self.config.epochs {
            let (metrics, flow) = self.epoch(epoch, data, observer)?;
            if best.improves(&metrics) {
                observer.best(&metrics)?;
            }
            observer.record(&Record::Epoch(metrics))?;
            if flow.is_break() || self.config.patience.is_some_and(|most| best.is_past(epoch, most))
            {
                break;
            }
        }
        Ok(())
    }

    /// An epoch, and whether the run goes on after it.
    fn epoch<O: Observer>(
        &mut self,
        epoch: u64,
        data: &dyn Data,
        observer: &mut O,
    ) -> Result<(EpochMetrics, ControlFlow<()>), O::Error> {
        let begun = Instant::now();
        let batch_size = self.config.samples_of_step();
        let order = data.order(epoch);
        if order.len() < batch_size {
            return Err(Error::NoBatch { batch_size, samples: order.len() }.into());
        }
        let (mut whole, mut since_record) = (Mean::default(), Mean::default());
        let mut flow = ControlFlow::Continue(());
        #[cfg(feature = "cuda")]
        self.begin_epoch_on_gpu(&order)?;
        for (index, batch) in (1..).zip(order.chunks_exact(batch_size)) {
            let is_due = index % self.config.log_every == 0;
            let step = self.take_step(epoch, batch, data, is_due)?;
            whole.add(&step);
            since_record.add(&step);
            if is_due {
                observer.record(&Record::Step(StepMetrics {
                    step: self.step,
                    epoch,
                    loss: since_record.loss(),
                    lr: self.optimizer.lr(),
                }))?;
                since_record = Mean::default();
            }
            flow = observer.after_step(self.step)?;
            if self.config.max_steps.is_some_and(|last| self.step >= last) {
                flow = ControlFlow::Break(());
            }
            if flow.is_break() {
                break;
            }
        }
        whole.add(&self.rest_of_steps(epoch)?);
        let loop_seconds = begun.elapsed().as_secs_f64();
        let (val, test) = self.evaluate(data)?;
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
            train_loss: whole.loss(),
            train_accuracy: whole.accuracy(),
            val_loss: validated.then(|| val.loss()),
            val_accuracy: validated.then(|| val.accuracy()),
            test_loss: test.loss(),
            test_accuracy: test.accuracy(),
            images_per_second: whole.samples as f64 / loop_seconds,
            seconds: begun.elapsed().as_secs_f64(),
        };
        Ok((metrics, flow))
    }

    /// Evaluates the parameters that are kept: on the validation samples, then on those of the test.
    fn evaluate(&self, data: &dyn Data) -> Result<(Evaluation, Evaluation), Error> {
        let swap = || self.averages.as_ref().map_or(Ok(()), |them| them.swap(&self.parameters));
        swap()?;
        let at_once = if self.is_on_gpu() { EVALUATION_BATCH_ON_GPU } else { EVALUATION_BATCH };
        let val = evaluate_here(&self.forward, data.val_len(), at_once, |indices| {
            data.val_batch(indices)
        });
        let test = evaluate_here(&self.forward, data.test_len(), at_once, |indices| {
            data.test_batch(indices)
        });
        swap()?;
        Ok((val?, test?))
    }

    fn not_finite(&self, epoch: u64, what: &str, value: f64) -> Error {
        Error::NotFinite { step: self.step, epoch, what: what.to_owned(), value }
    }

    /// A step on these samples. On a GPU it is launched, and gives what the steps before it and itself have come to when
    /// that is due, else nothing yet.
    fn take_step(
        &mut self,
        epoch: u64,
        samples: &[u32],
        data: &dyn Data,
        is_due: bool,
    ) -> Result<Step, Error> {
        self.step += 1;
        let lr = self.config.schedule.lr(self.config.optimizer.lr, self.step, self.steps);
        self.optimizer.set_lr(lr);
        #[cfg(feature = "cuda")]
        if let Some(on_gpu) = &mut self.on_gpu {
            let (config, model) = (&self.config, (&self.forward, &self.parameters));
            on_gpu.launch(config, model, (epoch, samples), data)?;
            return if is_due { self.rest_of_steps(epoch) } else { Ok(Step::default()) };
        }
        let _ = is_due;
        self.train_step(epoch, samples, data)
    }

    #[cfg(not(feature = "cuda"))]
    fn rest_of_steps(&mut self, _epoch: u64) -> Result<Step, Error> {
        Ok(Step::default())
    }

    /// What the steps on a GPU have come to that have given nothing yet.
    #[cfg(feature = "cuda")]
    fn rest_of_steps(&mut self, epoch: u64) -> Result<Step, Error> {
        let Some(on_gpu) = &mut self.on_gpu else { return Ok(Step::default()) };
        let Taken { tally, steps } = on_gpu.take()?;
        if let Some(Fault { step, parameter, value }) = tally.fault {
            let what = parameter.map_or_else(
                || "loss".to_owned(),
                |parameter| format!("gradient of {}", self.parameters[parameter].0),
            );
            return Err(Error::NotFinite { step: step.into(), epoch, what, value });
        }
        let samples = steps * self.config.samples_of_step();
        Ok(Step { loss_sum: tally.loss_sum, correct: tally.correct as usize, samples })
    }

    #[cfg(not(feature = "cuda"))]
    const fn is_on_gpu(&self) -> bool {
        false
    }

    #[cfg(feature = "cuda")]
    fn is_on_gpu(&self) -> bool {
        on_gpu::of_all(&self.parameters).is_some()
    }

    /// Makes room for an epoch's steps on the GPU, if the parameters are on one.
    #[cfg(feature = "cuda")]
    fn prepare_gpu(&mut self, data: &dyn Data) -> Result<(), Error> {
        let Some(device) = on_gpu::of_all(&self.parameters) else { return Ok(()) };
        let trained = (&self.parameters, &self.optimizer);
        let samples = (data, data.order(1).len());
        let averages = self.averages.as_ref();
        self.on_gpu = Some(OnGpu::new(device, &self.config, trained, averages, samples)?);
        Ok(())
    }

    /// Gives the GPU the order of an epoch and the numbers of each of its steps.
    #[cfg(feature = "cuda")]
    fn begin_epoch_on_gpu(&mut self, order: &[u32]) -> Result<(), Error> {
        let Some(on_gpu) = &mut self.on_gpu else { return Ok(()) };
        let steps = order.len() / self.config.samples_of_step();
        let updates = (self.step + 1..).take(steps).map(|step| {
            let lr = self.config.schedule.lr(self.config.optimizer.lr, step, self.steps);
            let mut updates = self.optimizer.updates(step, lr);
            if let Some(averages) = &self.averages {
                let share = averages.share(step - 1) as f32;
                updates.iter_mut().for_each(|update| update.average_share = share);
            }
            updates
        });
        let samples = &order[..steps * self.config.samples_of_step()];
        on_gpu.begin_epoch(self.step + 1, samples, &updates.collect::<Vec<_>>())
    }

    /// A step on these samples, a batch after the other.
    fn train_step(&mut self, epoch: u64, samples: &[u32], data: &dyn Data) -> Result<Step, Error> {
        let random = Random::new(self.config.seed).at_step(self.step);
        let mut step = Step { loss_sum: 0.0, correct: 0, samples: samples.len() };
        let mut gradients: Vec<Summed> = Vec::new();
        let batch_size = self.config.batch_size;
        for (first, batch) in (0..).step_by(batch_size).zip(samples.chunks(batch_size)) {
            let ranges = shards(batch.len(), self.config.shards).into_par_iter();
            let results = ranges.map(|range| {
                let mode = Mode::Train(random.from_sample((first + range.start) as u32));
                let batch = data.train_batch(epoch, &batch[range])?;
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
            gradients = gradients::sum(&pieces, scale)?;
        }
        for ((name, _), gradient) in self.parameters.iter().zip(&gradients) {
            if let Some(value) = gradient.not_finite {
                return Err(self.not_finite(epoch, &format!("gradient of {name}"), value));
            }
        }
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

/// What a step gives.
#[derive(Default)]
struct Step {
    loss_sum: f64,
    correct: usize,
    samples: usize,
}

/// Loss and accuracy over some steps.
#[derive(Default)]
struct Mean {
    loss_sum: f64,
    correct: usize,
    samples: usize,
}

impl Mean {
    fn add(&mut self, step: &Step) {
        self.loss_sum += step.loss_sum;
        self.correct += step.correct;
        self.samples += step.samples;
    }

    fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}

#[cfg(test)]
mod tests;
