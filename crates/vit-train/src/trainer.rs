//! The loop: batches cut into shards, shards over threads, gradients added in order, one step at a time.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use rayon::ThreadPool;
use rayon::prelude::*;
use vit_ops::Mode;
use vit_random::Random;

use crate::evaluation::evaluate_here;
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
    threads: Arc<ThreadPool>,
    step: u64,
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
        let threads = Arc::new(thread_pool(threads)?);
        Ok(Self { config, forward, parameters, optimizer, threads, step: 0 })
    }

    /// Trains until the last epoch or step, or until the observer breaks.
    ///
    /// # Errors
    /// If there is no whole batch, a parameter has no gradient, the loss or a gradient is not finite, or the
    /// observer fails.
    pub fn run<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        // All of it on the pool: a thread that is outside would have to be woken at each step.
        Arc::clone(&self.threads).install(|| self.run_here(data, observer))
    }

    fn run_here<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        for epoch in 1..=self.config.epochs {
            let (metrics, flow) = self.epoch(epoch, data, observer)?;
            observer.record(&Record::Epoch(metrics))?;
            if flow.is_break() {
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
        let batch_size = self.config.batch_size;
        let order = data.order(epoch);
        if order.len() < batch_size {
            return Err(Error::NoBatch { batch_size, samples: order.len() }.into());
        }
        let (mut whole, mut since_record) = (Mean::default(), Mean::default());
        let mut flow = ControlFlow::Continue(());
        for (index, batch) in (1..).zip(order.chunks_exact(batch_size)) {
            let step = self.train_step(epoch, batch, data)?;
            whole.add(&step);
            since_record.add(&step);
            if index % self.config.log_every == 0 {
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
        let loop_seconds = begun.elapsed().as_secs_f64();
        let test_len = data.test_len();
        let test = evaluate_here(&self.forward, test_len, |indices| data.test_batch(indices));
        let test = test.map_err(Error::from)?;
        // The last step's update is seen here alone.
        if test.total() > 0 && !test.loss().is_finite() {
            return Err(self.not_finite(epoch, "test loss", test.loss()).into());
        }
        let metrics = EpochMetrics {
            epoch,
            step: self.step,
            train_loss: whole.loss(),
            train_accuracy: whole.accuracy(),
            test_loss: test.loss(),
            test_accuracy: test.accuracy(),
            images_per_second: whole.samples as f64 / loop_seconds,
            seconds: begun.elapsed().as_secs_f64(),
        };
        Ok((metrics, flow))
    }

    fn not_finite(&self, epoch: u64, what: &str, value: f64) -> Error {
        Error::NotFinite { step: self.step, epoch, what: what.to_owned(), value }
    }

    fn train_step(&mut self, epoch: u64, batch: &[u32], data: &dyn Data) -> Result<Step, Error> {
        self.step += 1;
        let random = Random::new(self.config.seed).at_step(self.step);
        let ranges = shards(batch.len(), self.config.shards).into_par_iter();
        let results = ranges.map(|range| {
            let mode = Mode::Train(random.from_sample(range.start as u32));
            train_shard(&self.forward, &self.parameters, &data.train_batch(&batch[range])?, mode)
        });
        let shards: Vec<Shard> = results.collect::<Result<_, Error>>()?;
        let loss_sum: f64 = shards.iter().map(|shard| shard.loss_sum).sum();
        let correct = shards.iter().map(|shard| shard.correct).sum();
        if !loss_sum.is_finite() {
            return Err(self.not_finite(epoch, "loss", loss_sum));
        }
        let shards: Vec<_> = shards.into_iter().map(|shard| shard.gradients).collect();
        let gradients = gradients::sum(&shards, 1.0 / batch.len() as f64)?;
        for ((name, _), gradient) in self.parameters.iter().zip(&gradients) {
            if let Some(value) = gradient.not_finite {
                return Err(self.not_finite(epoch, &format!("gradient of {name}"), value));
            }
        }
        let gradients: Vec<_> = gradients.into_iter().map(|gradient| gradient.total).collect();
        self.optimizer.step(&gradients)?;
        Ok(Step { loss_sum, correct, samples: batch.len() })
    }
}

/// What a step gives.
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
mod tests {
    use super::*;
    use crate::{Batch, OptimizerConfig};
    use candle_core::{Device, Result as TensorResult, Tensor, Var};

    /// Points on a line, labelled by their side of zero.
    struct Line;

    fn line(indices: &[u32]) -> TensorResult<Batch> {
        let xs: Vec<f32> = indices.iter().map(|&i| (i as f32 * 0.618).fract() - 0.5).collect();
        let labels: Vec<u32> = xs.iter().map(|&x| u32::from(x > 0.0)).collect();
        let len = xs.len();
        Ok(Batch {
            images: Tensor::from_vec(xs, (len, 1), &Device::Cpu)?,
            labels: Tensor::from_vec(labels, len, &Device::Cpu)?,
        })
    }

    impl Data for Line {
        fn order(&self, epoch: u64) -> Vec<u32> {
            (0..50).map(|index| (index * 7 + epoch as u32) % 50).collect()
        }
        fn train_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
            line(indices)
        }
        fn test_len(&self) -> usize {
            33
        }
        fn test_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
            line(indices)
        }
    }

    fn config() -> TrainConfig {
        TrainConfig {
            epochs: 3,
            max_steps: None,
            batch_size: 8,
            shards: 3,
            seed: 1,
            log_every: 2,
            optimizer: OptimizerConfig::adam(0.1),
        }
    }

    impl Observer for Vec<Record> {
        type Error = Error;
        fn record(&mut self, record: &Record) -> Result<(), Error> {
            self.push(record.clone());
            Ok(())
        }
        fn after_step(&mut self, step: u64) -> Result<ControlFlow<()>, Error> {
            Ok(if step == 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        }
    }

    fn run(config: TrainConfig, threads: usize) -> Result<(Vec<f32>, Vec<Record>), Error> {
        let weight = Var::new(&[[0.1_f32], [-0.2]], &Device::Cpu)?;
        let parameters = vec![("w".to_owned(), weight.clone())];
        let tracked = weight.as_tensor().clone();
        let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
        let mut records = Vec::new();
        Trainer::new(config, forward, parameters, threads)?.run(&Line, &mut records)?;
        Ok((weight.flatten_all()?.to_vec1()?, records))
    }

    #[test]
    fn training_learns_and_records_as_configured() -> Result<(), Error> {
        let (_, records) = run(config(), 1)?;
        // Six batches of eight an epoch, a record after every second: three, then the epoch's.
        assert_eq!(records.len(), 3 * (3 + 1));
        let Some(Record::Epoch(last)) = records.last() else { panic!("no epoch at the end") };
        assert_eq!((last.epoch, last.step), (3, 18));
        assert!(last.test_accuracy > 0.9 && last.train_loss < 0.69, "{last:?}");
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<(), Error> {
        let (one, _) = run(config(), 1)?;
        for threads in [2, 4] {
            assert_eq!(run(config(), threads)?.0, one);
        }
        Ok(())
    }

    #[test]
    fn max_steps_ends_the_run_with_its_epoch() -> Result<(), Error> {
        let (_, records) = run(TrainConfig { max_steps: Some(7), ..config() }, 2)?;
        let Some(Record::Epoch(last)) = records.last() else { panic!("no epoch at the end") };
        assert_eq!((last.epoch, last.step), (2, 7));
        Ok(())
    }

    #[test]
    fn an_observer_ends_the_run_with_its_epoch() -> Result<(), Error> {
        let (_, records) = run(TrainConfig { epochs: 9, ..config() }, 2)?;
        let Some(Record::Epoch(last)) = records.last() else { panic!("no epoch at the end") };
        assert_eq!((last.epoch, last.step), (4, 20));
        Ok(())
    }

    #[test]
    fn a_loss_that_is_not_finite_stops_the_run() {
        let weight = Var::new(&[[f32::NAN], [0.0]], &Device::Cpu).expect("a small tensor");
        let tracked = weight.as_tensor().clone();
        let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
        let trainer = Trainer::new(config(), forward, vec![("w".to_owned(), weight)], 1);
        let error =
            trainer.expect("a sound configuration").run(&Line, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "step 1 of epoch 1: expected a finite loss, got NaN");
    }

    #[test]
    fn a_last_update_that_is_not_finite_is_found() {
        let optimizer = OptimizerConfig::adam(f64::from(f32::MAX));
        let error = run(TrainConfig { max_steps: Some(1), optimizer, ..config() }, 1).unwrap_err();
        assert!(error.to_string().contains("expected a finite test loss"), "{error}");
    }

    #[test]
    fn a_parameter_that_the_loss_does_not_reach_stops_the_run() {
        let weight = Var::new(&[[0.1_f32], [0.0]], &Device::Cpu).expect("a small tensor");
        let tracked = weight.as_tensor().clone();
        let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
        let idle = Var::new(1.0_f32, &Device::Cpu).expect("a small tensor");
        let parameters = vec![("w".to_owned(), weight), ("idle".to_owned(), idle)];
        let trainer = Trainer::new(config(), forward, parameters, 1);
        let error =
            trainer.expect("a sound configuration").run(&Line, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "no gradient reached 1 of 2 parameters: idle");
    }

    #[test]
    fn fewer_samples_than_a_batch_are_refused() {
        let error = run(TrainConfig { batch_size: 51, ..config() }, 1).unwrap_err().to_string();
        assert_eq!(error, "expected at least one batch of 51 training samples, got 50 samples");
    }
}
