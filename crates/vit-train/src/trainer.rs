//! The training loop: epochs of steps, evaluations, and calls to the observer.

pub(crate) mod builder;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Result as TensorResult;
use rayon::ThreadPool;
use tracing::{debug_span, trace_span};

use crate::backend::{StepBackend, StepToTake, Taken, Task};
use crate::best::Best;
use crate::collective::{number_of, words_of};
use crate::evaluation::{IsOver, score, total};
use crate::state::{self, RunProgress, TrainState, digest_of_order};
use crate::sums::Sums;
use crate::{
    AfterStep, Batch, Checkpoint, Data, EpochMetrics, Error, Evaluated, NamedVars, Observer,
    Progress, Record, Scores, StepMetrics, TrainConfig,
};

/// A model being trained.
pub struct Trainer {
    task: Task,
    /// Takes the steps on the parameters' device.
    backend: Box<dyn StepBackend>,
    /// All parameters, sorted by name.
    parameters: NamedVars,
    weights: NamedVars,
    threads: Arc<ThreadPool>,
    step: u64,
    /// Where the next run starts, unless at the beginning.
    resumed: Option<(RunProgress, String)>,
    /// Steps of a whole run.
    steps: u64,
}

/// A run in progress, with its data and observer.
struct Run<'a, O> {
    data: &'a dyn Data,
    observer: &'a mut O,
    is_over: IsOver<'a>,
}

impl Trainer {
    /// The weights to evaluate and save: the EMA if the configuration has one, else the parameters. They change during
    /// training.
    #[must_use]
    pub const fn weights(&self) -> &NamedVars {
        &self.weights
    }

    /// Completed steps.
    #[must_use]
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// Resumes from a state: the next [`run`](Self::run) continues there, bit-identical to an uninterrupted run.
    /// Configuration and data must equal the saved run's.
    ///
    /// # Errors
    /// If the state has other parameters.
    pub fn resume(&mut self, state: &TrainState) -> Result<(), Error> {
        let TrainState { progress, order, parameters, averages, moments } = state;
        state::set(&self.parameters, parameters, "parameter")?;
        match (&self.task.averages, averages) {
            (Some(_), Some(averages)) => state::set(&self.weights, averages, "average of")?,
            (None, None) => {}
            (ours, _) => {
                let [some, none] = ["moving averages", "none"].map(str::to_owned);
                let (expected, got) = if ours.is_some() { (some, none) } else { (none, some) };
                return Err(Error::State { expected, got });
            }
        }
        let moments =
            moments.iter().zip(["first moment of", "second moment of"]).map(|(of, what)| {
                let of = state::in_order(of, &self.task.trained, what)?;
                Ok(of.into_iter().cloned().collect())
            });
        let moments = moments.collect::<Result<Vec<_>, Error>>()?;
        self.backend.resume(&self.task, progress.step, moments)?;
        self.step = progress.step;
        self.resumed = Some((*progress, order.clone()));
        Ok(())
    }

    /// Changes settings from the next step on: `epochs`, `max_steps`, `patience`, the schedule and the optimiser's
    /// `lr`. The schedule remains a function of the step over the whole run.
    ///
    /// # Errors
    /// If a setting is out of range, or another one differs.
    pub fn change(&mut self, config: &TrainConfig) -> Result<(), Error> {
        config.check()?;
        let now = &self.task.config;
        let mut changed = config.clone();
        (changed.epochs, changed.max_steps, changed.patience) =
            (now.epochs, now.max_steps, now.patience);
        (changed.schedule, changed.optimizer.lr) = (now.schedule, now.optimizer.lr);
        if changed != *now {
            let [expected, got] = [now, &changed].map(|config| format!("{config:?}"));
            return Err(Error::State { expected, got });
        }
        self.task.config = config.clone();
        Ok(())
    }

    /// Trains until the last epoch or step, or until the observer stops it; another call continues from there.
    ///
    /// # Errors
    /// If there is no complete batch, a parameter has no gradient, the loss or a gradient is not finite, or the
    /// observer fails.
    pub fn run<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        self.backend.begin_run(&self.task, data)?;
        if self.backend.is_pooled() {
            // Runs on the pool: an outside thread would have to be woken at each step.
            let threads = Arc::clone(&self.threads);
            return threads.install(|| self.run_here(data, observer));
        }
        self.run_here(data, observer)
    }

    fn run_here<O: Observer>(&mut self, data: &dyn Data, observer: &mut O) -> Result<(), O::Error> {
        let _run = debug_span!("run").entered();
        let config = &self.task.config;
        let an_epoch = (data.order(1).len() / config.samples_of_step()) as u64;
        let steps = config.epochs.saturating_mul(an_epoch);
        self.steps = config.max_steps.map_or(steps, |last| last.min(steps));
        let epochs = config.epochs;
        let mut at = RunProgress::new(self.step);
        if let Some((progress, order)) = self.resumed.take() {
            let epoch = progress.epoch;
            // If all steps of an epoch were taken, its evaluation is still due.
            if progress.step_of_epoch == 0 && self.is_past(epoch.saturating_sub(1), &progress.best)
            {
                self.resumed = Some((progress, order));
                return Ok(());
            }
            let here = digest_of_order(&data.order(epoch));
            if here != order {
                let expected = format!("samples of epoch {epoch} in an order of SHA-256 {here}");
                return Err(Error::State { expected, got: order }.into());
            }
            at = progress;
        }
        let is_over = observer.ending();
        let mut run = Run { data, observer, is_over: &*is_over };
        while at.epoch <= epochs {
            let (epoch, mut best) = (at.epoch, at.best);
            let (metrics, flow) = self.epoch(&mut at, &mut run)?;
            // An interrupted epoch continues on resume, so it cannot be the best yet.
            if flow.is_continue() && best.improves(&metrics) {
                run.observer.best(&metrics)?;
            }
            run.observer.record(&Record::Epoch(metrics))?;
            at.step = self.step;
            if flow.is_break() {
                break;
            }
            at = at.before_epoch(epoch + 1, best);
            let is_last = self.is_past(epoch, &best) || self.any(is_over());
            let place = Checkpoint::Epoch { step: self.step, is_last };
            let keeps = self.agree(run.observer.wants_state(place).into()).keeps;
            self.checkpoint(place, keeps, &mut at, &data.order(epoch + 1), &mut run)?;
            if is_last {
                break;
            }
        }
        self.resumed = Some((at, digest_of_order(&data.order(at.epoch))));
        Ok(())
    }

    /// Whether early stopping ends the run with this epoch.
    fn is_past(&self, epoch: u64, best: &Best) -> bool {
        let TrainConfig { epochs, patience, .. } = self.task.config;
        epoch >= epochs || self.is_full() || patience.is_some_and(|most| best.is_past(epoch, most))
    }

    /// Whether `max_steps` is reached.
    fn is_full(&self) -> bool {
        self.task.config.max_steps.is_some_and(|last| self.step >= last)
    }

    /// Runs an epoch, or the rest of one; returns whether the run continues.
    fn epoch<O: Observer>(
        &mut self,
        at: &mut RunProgress,
        run: &mut Run<'_, O>,
    ) -> Result<(EpochMetrics, ControlFlow<()>), O::Error> {
        let since = Instant::now();
        let epoch = at.epoch;
        let _epoch = debug_span!("epoch", epoch).entered();
        let batch_size = self.task.config.samples_of_step();
        let order = run.data.order(epoch);
        if order.len() < batch_size {
            return Err(Error::NoBatch { batch_size, samples: order.len() }.into());
        }
        let before = at.of_epoch.samples;
        let mut flow = self.steps_of_epoch(at, &order, run)?;
        let rest = self.backend.take_sums(&self.task, epoch)?;
        at.of_epoch.add(&rest);
        at.since_record.add(&rest);
        let loop_seconds = since.elapsed().as_secs_f64();
        let waiting_seconds = self.backend.take_waited().as_secs_f64();
        let is_due = flow.asks_for_evaluation
            || flow.stops
            || epoch.is_multiple_of(self.task.config.evaluate_every)
            || self.is_past(epoch, &at.best);
        let mut scores = None;
        if is_due {
            let found = match self.evaluate(epoch, run, flow.stops)? {
                Some(found) => found,
                None => {
                    flow.stops = true;
                    at.step = self.step;
                    let place = Checkpoint::Step { step: self.step, is_last: true };
                    let keeps = self.agree(run.observer.wants_state(place).into()).keeps;
                    self.checkpoint(place, keeps, at, &order, run)?;
                    self.evaluate(epoch, run, true)?.expect("it is not interrupted")
                }
            };
            scores = Some(found);
        }
        let val = scores.as_ref().map(|(val, _)| val).filter(|val| val.samples > 0);
        let test = scores.as_ref().map(|(_, test)| test).filter(|test| test.samples > 0);
        let metrics = EpochMetrics {
            epoch,
            step: self.step,
            train_loss: at.of_epoch.loss(),
            train_accuracy: at.of_epoch.accuracy(),
            val_loss: val.map(Scores::loss),
            val_accuracy: val.map(Scores::accuracy),
            test_loss: test.map(Scores::loss),
            test_accuracy: test.map(Scores::accuracy),
            images_per_second: (at.of_epoch.samples - before) as f64 / loop_seconds,
            waiting_seconds: Some(waiting_seconds),
            seconds: since.elapsed().as_secs_f64(),
        };
        let flow = if flow.stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        Ok((metrics, flow))
    }

    /// Runs the remaining steps of an epoch.
    fn steps_of_epoch<O: Observer>(
        &mut self,
        at: &mut RunProgress,
        order: &[u32],
        run: &mut Run<'_, O>,
    ) -> Result<EndOfSteps, O::Error> {
        let (epoch, batch_size) = (at.epoch, self.task.config.samples_of_step());
        let steps = (order.len() / batch_size) as u64;
        let taken = if self.is_full() { steps } else { at.step_of_epoch.min(steps) };
        let left = &order[taken as usize * batch_size..];
        let (first, count) = (self.step + 1, left.len() / batch_size);
        let mut rates = self.rates(first, count, at.lr_scale);
        self.backend.begin_epoch(&self.task, first, &rates, left)?;
        let mut end = EndOfSteps::default();
        for (index, samples) in left.chunks_exact(batch_size).enumerate() {
            at.step_of_epoch += 1;
            let is_due = at.step_of_epoch.is_multiple_of(self.task.config.log_every);
            self.step += 1;
            let lr = rates[index];
            let is_over = run.is_over;
            let next = if self.is_full() { &[] } else { &left[(index + 1) * batch_size..] };
            let next = next.chunks_exact(batch_size).next().unwrap_or_default();
            let step = StepToTake { step: self.step, epoch, lr, samples, next, is_due, is_over };
            let Taken { sums, ends } = trace_span!("step", step = self.step)
                .in_scope(|| self.backend.step(&self.task, &step, run.data))?;
            let mut after = AfterStep {
                step: self.step,
                lr,
                lr_scale: at.lr_scale,
                weights: &self.weights,
                stops: ends,
                evaluates: false,
            };
            run.observer.after_step(&mut after)?;
            let AfterStep { stops, evaluates, lr_scale, .. } = after;
            let is_full = self.is_full();
            let ends_epoch = is_full || at.step_of_epoch == steps;
            let place = Checkpoint::Step { step: self.step, is_last: stops };
            let keeps = (stops || !ends_epoch) && run.observer.wants_state(place);
            let asked = self.agree(Asked { stops, evaluates, keeps, lr_scale });
            let Asked { stops, evaluates, keeps, lr_scale } = asked;
            self.count(at, &sums, (is_due, lr), steps, run)?;
            if lr_scale != at.lr_scale {
                at.lr_scale = lr_scale;
                rates = self.rates(first, count, lr_scale);
                self.backend.set_rates(&self.task, first, &rates)?;
            }
            end = EndOfSteps { stops, asks_for_evaluation: evaluates };
            if evaluates && !stops && !ends_epoch {
                self.evaluate(epoch, run, true)?;
            }
            if stops || !ends_epoch {
                at.step = self.step;
                let place = Checkpoint::Step { step: self.step, is_last: stops };
                self.checkpoint(place, keeps, at, order, run)?;
            }
            if stops || is_full {
                break;
            }
        }
        Ok(end)
    }

    /// Offers the observer a checkpoint. With several ranks, all first collect the state if rank 0 wants it.
    fn checkpoint<O: Observer>(
        &mut self,
        place: Checkpoint,
        keeps: bool,
        at: &mut RunProgress,
        order: &[u32],
        run: &mut Run<'_, O>,
    ) -> Result<(), O::Error> {
        let (rank, size) = (self.task.ranks.rank(), self.task.ranks.size());
        let mut state = || {
            let rest = self.backend.take_sums(&self.task, at.epoch)?;
            at.of_epoch.add(&rest);
            at.since_record.add(&rest);
            self.state(*at, order)
        };
        if size == 1 {
            return run.observer.checkpoint(place, &mut state);
        }
        let mut made = if keeps { Some(state()?) } else { None };
        let expected = "the state to be requested on rank 0";
        run.observer.checkpoint(place, &mut || {
            let state = made.take().filter(|_| rank == 0);
            state.ok_or_else(|| Error::Ranks {
                expected: format!("{expected} where `wants_state` was true"),
                got: format!("rank {rank}"),
            })
        })
    }

    /// The requests of rank 0's observer.
    fn agree(&self, asked: Asked) -> Asked {
        if self.task.ranks.size() == 1 {
            return asked;
        }
        let Asked { stops, evaluates, keeps, lr_scale } = asked;
        let flags = u32::from(stops) | u32::from(evaluates) << 1 | u32::from(keeps) << 2;
        let [low, high] = words_of(lr_scale);
        let mut words = [flags, low, high];
        self.task.ranks.broadcast(&mut words);
        let [flags, low, high] = words;
        Asked {
            stops: flags & 1 != 0,
            evaluates: flags & 2 != 0,
            keeps: flags & 4 != 0,
            lr_scale: number_of([low, high]),
        }
    }

    /// Whether `here` is true on any rank.
    fn any(&self, here: bool) -> bool {
        if self.task.ranks.size() == 1 { here } else { self.task.ranks.any(here) }
    }

    /// Adds a step to the sums and reports it.
    fn count<O: Observer>(
        &self,
        at: &mut RunProgress,
        sums: &Sums,
        (is_due, lr): (bool, f64),
        steps_of_epoch: u64,
        run: &mut Run<'_, O>,
    ) -> Result<(), O::Error> {
        at.of_epoch.add(sums);
        at.since_record.add(sums);
        if is_due {
            run.observer.record(&Record::Step(StepMetrics {
                step: self.step,
                epoch: at.epoch,
                loss: at.since_record.loss(),
                lr,
            }))?;
            at.since_record = Sums::default();
        }
        run.observer.progress(&Progress {
            step: self.step,
            steps: self.steps,
            epoch: at.epoch,
            step_of_epoch: at.step_of_epoch,
            steps_of_epoch,
            loss_and_accuracy: at.of_epoch.means(),
        });
        Ok(())
    }

    /// The learning rates of `count` steps.
    fn rates(&self, first: u64, count: usize, lr_scale: f64) -> Vec<f64> {
        let TrainConfig { schedule, optimizer, .. } = &self.task.config;
        let lr = |step| schedule.lr(optimizer.lr, step, self.steps) * lr_scale;
        (first..).take(count).map(lr).collect()
    }

    /// The complete state of the run.
    fn state(&self, progress: RunProgress, order: &[u32]) -> Result<TrainState, Error> {
        let moments = self.backend.moments(&self.task)?.into_iter();
        let names = || self.task.trained.iter().map(|(name, _)| name.clone());
        let averages = self.task.averages.as_ref().map(|_| state::values(&self.weights));
        Ok(TrainState {
            progress,
            order: digest_of_order(order),
            parameters: state::values(&self.parameters)?,
            averages: averages.transpose()?,
            moments: moments.map(|moments| names().zip(moments).collect()).collect(),
        })
    }

    /// Evaluates the weights on the validation split, then on the test split; `None` if it is interrupted.
    fn evaluate<O: Observer>(
        &self,
        epoch: u64,
        run: &mut Run<'_, O>,
        is_whole: bool,
    ) -> Result<Option<(Scores, Scores)>, O::Error> {
        run.observer.evaluating();
        let keeps = run.observer.wants_outputs();
        let is_over = run.is_over;
        let is_over = move || !is_whole && is_over();
        let Some((val, test)) = self.scores(run.data, keeps, &is_over)? else { return Ok(None) };
        // Only here does the last step's update show.
        for (what, of) in [("validation loss", &val), ("test loss", &test)] {
            if of.samples > 0 && !of.loss().is_finite() {
                let (step, what) = (self.step, what.to_owned());
                return Err(Error::NotFinite { step, epoch, what, value: of.loss() }.into());
            }
        }
        let (step, weights) = (self.step, &self.weights);
        run.observer.evaluated(&Evaluated { step, epoch, weights, val: &val, test: &test })?;
        Ok(Some((val, test)))
    }

    fn scores(
        &self,
        data: &dyn Data,
        keeps_outputs: bool,
        is_over: IsOver<'_>,
    ) -> Result<Option<(Scores, Scores)>, Error> {
        let _evaluation = debug_span!("evaluation").entered();
        let Task { model, loss, averages, trained, .. } = &self.task;
        let scores =
            |len, batch: &(dyn Fn(&[u32]) -> TensorResult<Batch> + Sync)| -> TensorResult<_> {
                let each = |indices: &[u32]| {
                    if is_over() {
                        return Ok(None);
                    }
                    score((&**model, &**loss), batch(indices)?, keeps_outputs).map(Some)
                };
                let parts = self.backend.evaluate(&self.task, len, &each)?;
                Ok(total(if self.task.ranks.size() == 1 { parts } else { self.gathered(&parts) }))
            };
        let swap = || averages.as_ref().map_or(Ok(()), |averages| averages.swap(trained));
        swap()?;
        let val = scores(data.val_len(), &|indices| data.val_batch(indices));
        let test = scores(data.test_len(), &|indices| data.test_batch(indices));
        swap()?;
        Ok(val?.zip(test?))
    }
}

impl Trainer {
    /// The scores of all ranks, in order; outputs stay on their rank.
    fn gathered(&self, parts: &[Option<Scores>]) -> Vec<Option<Scores>> {
        const WORDS: usize = 5;
        let mut mine = Vec::with_capacity(parts.len() * WORDS);
        for part in parts {
            let part = part.as_ref();
            let [low, high] = words_of(part.map_or(0.0, |part| part.loss_sum));
            let [correct, samples] = part.map_or([0; 2], |part| [part.correct, part.samples]);
            mine.extend([part.is_some().into(), low, high, correct as u32, samples as u32]);
        }
        let (ranks, one) = (&*self.task.ranks, vec![1; self.task.ranks.size()]);
        let mut counts = vec![0; ranks.size()];
        ranks.gather(&[mine.len() as u32], &mut counts, &one);
        let counts: Vec<usize> = counts.into_iter().map(|count| count as usize).collect();
        let mut all = vec![0; counts.iter().sum()];
        ranks.gather(&mine, &mut all, &counts);
        let parts = all.chunks_exact(WORDS).map(|words| {
            (words[0] != 0).then(|| Scores {
                loss_sum: number_of([words[1], words[2]]),
                correct: words[3] as usize,
                samples: words[4] as usize,
                outputs: Vec::new(),
            })
        });
        parts.collect()
    }
}

/// An observer's requests after a step.
#[derive(Clone, Copy)]
struct Asked {
    stops: bool,
    evaluates: bool,
    keeps: bool,
    lr_scale: f64,
}

impl From<bool> for Asked {
    /// No request, except for the state if it `keeps` it.
    fn from(keeps: bool) -> Self {
        Self { stops: false, evaluates: false, keeps, lr_scale: 1.0 }
    }
}

/// An observer's requests after the last step.
#[derive(Clone, Copy, Default)]
struct EndOfSteps {
    stops: bool,
    asks_for_evaluation: bool,
}

#[cfg(test)]
mod rank_tests;
#[cfg(test)]
mod tests;
