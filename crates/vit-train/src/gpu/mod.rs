//! Steps on a GPU: the first is recorded as a CUDA graph, and each further step is a single launch of it.
//!
//! A batch is one shard. No step waits for the GPU: losses and correct answers accumulate there until they are
//! requested. After a non-finite loss or gradient the parameters stay as before that step.

use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use vit_ops::Mode;
use vit_ops::cuda::{AdamSlot, AdamUpdate, Clock, Examples, Fault, Graph, Step, Tally, Tape};
use vit_random::Random;

use crate::backend::{EvaluateBatch, StepBackend, StepToTake, Taken, Task};
use crate::optimizer::Update;
use crate::sums::Sums;
use crate::{Batch, Bytes, Data, Error, OptimizerKind, Scores, gradients};

/// Takes steps on its caller's thread.
pub(crate) struct GpuBackend {
    device: Device,
    clock: Clock,
    step: Step,
    samples: Samples,
    /// How the next step runs.
    replay: Replay,
    /// Steps whose results have not been fetched.
    untaken: usize,
    /// Time spent on making batches, whatever the GPU did meanwhile.
    waited: Duration,
}

/// How a step runs.
enum Replay {
    /// Launch every kernel.
    Never,
    /// Record the step.
    Next,
    /// Launch the recorded graph.
    Graph(Graph),
}

/// Inputs of a step, at the addresses of the recorded step.
enum Samples {
    /// All images, and the order of an epoch.
    Resident { examples: Examples, order: Tensor },
    /// The batches of a step, copied before each.
    Copied(Vec<Batch>),
}

impl GpuBackend {
    /// Whether this backend suits the task: all trained parameters are `f32` on an NVIDIA GPU.
    pub(crate) fn suits(task: &Task) -> bool {
        task.trained.iter().all(|(_, var)| var.device().is_cuda() && var.dtype() == DType::F32)
    }

    /// A backend before its first step. It records a graph only under the contract of
    /// [`TrainerBuilder::record_steps`](crate::TrainerBuilder::record_steps).
    ///
    /// # Errors
    /// If a GPU does not support a setting, or its memory is full.
    pub(crate) fn new(task: &Task, records_steps: bool) -> Result<Self, Error> {
        if task.config.optimizer.kind == OptimizerKind::Sgd {
            return Err(Error::OnGpu { expected: "adam or adamw", got: "sgd" });
        }
        task.config.optimizer.check()?;
        let device = task.trained[0].1.device().clone();
        Ok(Self {
            clock: Clock::new(&device)?,
            step: step_of(task, &device)?,
            samples: Samples::Copied(Vec::new()),
            replay: if records_steps { Replay::Next } else { Replay::Never },
            untaken: 0,
            waited: Duration::ZERO,
            device,
        })
    }
}

impl StepBackend for GpuBackend {
    /// A recorded graph belongs to the thread that recorded it.
    fn is_pooled(&self) -> bool {
        false
    }

    fn begin_run(&mut self, task: &Task, data: &dyn Data) -> Result<(), Error> {
        let of_step = task.config.samples_of_step();
        let steps = data.order(1).len() / of_step;
        self.step.make_room(steps)?;
        self.samples = Samples::of(data, steps * of_step, &self.device)?;
        // The recorded graph reads the old memory.
        if let Replay::Graph(_) = self.replay {
            self.replay = Replay::Next;
        }
        Ok(())
    }

    fn begin_epoch(
        &mut self,
        task: &Task,
        first: u64,
        rates: &[f64],
        order: &[u32],
    ) -> Result<(), Error> {
        self.set_rates(task, first, rates)?;
        self.clock.set(first as u32, 0)?;
        if let Samples::Resident { order: resident, examples } = &self.samples {
            let order = &order[..rates.len() * task.config.samples_of_step()];
            let count = examples.len();
            if let Some(index) = order.iter().find(|&&index| index as usize >= count) {
                let message = format!("expected indices below {count}, got {index}");
                return Err(candle_core::Error::Msg(message).into());
            }
            if !order.is_empty() {
                resident.slice_set(&Tensor::new(order, &self.device)?, 0, 0)?;
            }
        }
        Ok(())
    }

    fn set_rates(&mut self, task: &Task, first: u64, rates: &[f64]) -> Result<(), Error> {
        let config = &task.config.optimizer;
        let (rows, _) = rows(task);
        let updates = rows.into_iter().map(|(lr_scale, weight_decay)| {
            let updates = (first..).zip(rates).map(|(step, lr)| {
                let share = task.averages.as_ref().map_or(0.0, |them| them.share(step - 1));
                update(&Update::new(config, step, lr * lr_scale, weight_decay), share)
            });
            updates.collect::<Vec<AdamUpdate>>()
        });
        Ok(self.step.set_updates(&updates.collect::<Vec<_>>())?)
    }

    fn step(
        &mut self,
        task: &Task,
        step: &StepToTake<'_>,
        data: &dyn Data,
    ) -> Result<Taken, Error> {
        if let Samples::Copied(batches) = &mut self.samples {
            let since = Instant::now();
            let each = step.samples.chunks(task.config.batch_size);
            let each = each.map(|indices| data.train_batch(step.epoch, indices));
            let made = each.collect::<TensorResult<_>>()?;
            self.waited += since.elapsed();
            copy(batches, made)?;
        }
        self.untaken += 1;
        match &mut self.replay {
            Replay::Graph(graph) => {
                #[expect(
                    unsafe_code,
                    reason = "only this module and the trainer's caller know what a step reads"
                )]
                // SAFETY: the step reads and writes
                // - clock, moments and samples, which are fields beside the graph: `begin_run`, which replaces samples
                //   and may replace the table of rates, and `resume`, which replaces the moments, drop the graph;
                // - trained parameters and their averages, whose variables the slots of `step` hold;
                // - other tensors of model and loss, which stay by the contract of `TrainerBuilder::record_steps`;
                //   without it no graph is recorded.
                // It is launched by the thread that recorded it, since a run stays on its thread and begins a new
                // graph.
                unsafe { graph.launch() }?;
            }
            Replay::Next => {
                let Self { device, clock, step, samples, .. } = self;
                let recorded = Graph::warmed_up(device, || {
                    clock.during(|| whole_step(task, samples, (clock, &mut *step)))
                })?;
                self.replay = Replay::Graph(recorded);
            }
            Replay::Never => {
                let Self { clock, step, samples, .. } = self;
                clock.during(|| whole_step(task, samples, (clock, step)))?;
            }
        }
        let sums = if step.is_due { self.take_sums(task, step.epoch)? } else { Sums::default() };
        Ok(Taken { sums, ends: false })
    }

    /// Waits for the steps so far.
    fn take_sums(&mut self, task: &Task, epoch: u64) -> Result<Sums, Error> {
        let Tally { loss_sum, correct, fault } = self.step.take()?;
        if let Some(Fault { step, parameter, value }) = fault {
            let of = |parameter: usize| format!("gradient of {}", task.trained[parameter].0);
            let what = parameter.map_or_else(|| "loss".to_owned(), of);
            return Err(Error::NotFinite { step: step.into(), epoch, what, value });
        }
        let samples = std::mem::take(&mut self.untaken) * task.config.samples_of_step();
        Ok(Sums { loss_sum, correct: correct as usize, samples })
    }

    fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    fn moments(&self, task: &Task) -> Result<Vec<Vec<Tensor>>, Error> {
        let [mut first, mut second] = [Vec::new(), Vec::new()];
        for ([m, v], (_, var)) in self.step.moments()?.into_iter().zip(&task.trained) {
            first.push(Tensor::from_vec(m, var.shape(), &Device::Cpu)?);
            second.push(Tensor::from_vec(v, var.shape(), &Device::Cpu)?);
        }
        Ok(vec![first, second])
    }

    fn resume(&mut self, task: &Task, _step: u64, moments: Vec<Vec<Tensor>>) -> Result<(), Error> {
        // The graph reads the old moments.
        if let Replay::Graph(_) = self.replay {
            self.replay = Replay::Next;
        }
        self.step = step_of(task, &self.device)?;
        self.untaken = 0;
        if let [first, second] = &moments[..] {
            let values = |moment: &Tensor| moment.flatten_all()?.to_vec1();
            let moments = first.iter().zip(second).map(|(m, v)| Ok([values(m)?, values(v)?]));
            self.step.set_moments(&moments.collect::<TensorResult<Vec<_>>>()?)?;
        }
        Ok(())
    }

    fn evaluate(
        &self,
        task: &Task,
        len: usize,
        batch: EvaluateBatch<'_>,
    ) -> TensorResult<Vec<Option<Scores>>> {
        // A forward pass alone takes less memory than a training step of as many samples: activations of earlier blocks
        // are freed.
        let at_once = 1000.min(4 * task.config.batch_size);
        let indices: Vec<u32> = (0..len as u32).collect();
        let mut parts = Vec::new();
        for indices in indices.chunks(at_once) {
            let part = batch(indices)?;
            let is_over = part.is_none();
            parts.push(part);
            if is_over {
                break;
            }
        }
        Ok(parts)
    }
}

/// The optimiser's part of a step, with moments at zero.
fn step_of(task: &Task, device: &Device) -> TensorResult<Step> {
    let averages = |index: usize| {
        task.averages.as_ref().map(|averages| averages.parameters()[index].1.clone())
    };
    let (_, row_of) = rows(task);
    let slots = task.trained.iter().zip(row_of).enumerate();
    let slots = slots.map(|(index, ((_, var), row))| AdamSlot {
        parameter: var.clone(),
        row,
        average: averages(index),
    });
    Step::new(device, slots.collect())
}

/// The distinct pairs of learning-rate scale and weight decay, and the pair of each trained parameter.
fn rows(task: &Task) -> (Vec<(f64, f64)>, Vec<usize>) {
    let mut rows = Vec::new();
    let row_of = task.trained.iter().zip(&task.groups).map(|((_, var), group)| {
        let row = (group.lr_scale, group.decay(&task.config.optimizer, var.rank()));
        rows.iter().position(|known| *known == row).unwrap_or_else(|| {
            rows.push(row);
            rows.len() - 1
        })
    });
    let row_of = row_of.collect();
    (rows, row_of)
}

/// A step's hyperparameters in the kernels' form.
fn update(update: &Update, average_share: f64) -> AdamUpdate {
    let Update::Adam(adam) = update else { unreachable!("no other optimiser has such a backend") };
    let adam = adam.map(|x| x as f32);
    AdamUpdate {
        first: adam.first,
        beta2: adam.beta2,
        second: adam.second,
        step_size: adam.step_size,
        second_correction: adam.second_correction,
        eps: adam.eps,
        gradient_decay: adam.gradient_decay,
        shrink: adam.shrink,
        average_share: average_share as f32,
    }
}

/// Copies batches to the addresses of the previous step's.
fn copy(to: &mut Vec<Batch>, from: Vec<Batch>) -> TensorResult<()> {
    if to.is_empty() {
        // Copied, because the data may return views of the same tensors again.
        let copy = |Batch { inputs, targets }| {
            let targets = targets.iter().map(Tensor::copy).collect::<TensorResult<_>>()?;
            Ok(Batch::with_targets(inputs.copy()?, targets))
        };
        *to = from.into_iter().map(copy).collect::<TensorResult<_>>()?;
        return Ok(());
    }
    for (to, from) in to.iter().zip(from) {
        to.inputs.slice_set(&from.inputs, 0, 0)?;
        if to.targets.len() != from.targets.len() {
            let (want, got) = (to.targets.len(), from.targets.len());
            candle_core::bail!("expected {want} targets as in the first batch, got {got}");
        }
        for (to, from) in to.targets.iter().zip(&from.targets) {
            to.slice_set(from, 0, 0)?;
        }
    }
    Ok(())
}

/// Everything that a step computes, batch after batch.
fn whole_step(
    task: &Task,
    samples: &Samples,
    (clock, end): (&Clock, &mut Step),
) -> Result<(), Error> {
    let Task { config, model, loss, trained, .. } = task;
    let of_step = config.samples_of_step();
    // The GPU's clock counts the steps.
    let random = Random::new(config.seed).at_step(0);
    let mut total: Option<(Tensor, Vec<Tensor>)> = None;
    let mut counted = Vec::new();
    for (index, first) in (0..of_step).step_by(config.batch_size).enumerate() {
        let range = first..(first + config.batch_size).min(of_step);
        let Batch { inputs, targets } = samples.batch(index, range, of_step)?;
        let Some(labels) = loss.labels(&targets).cloned() else {
            return Err(Error::OnGpu {
                expected: "a loss with one label for each sample",
                got: "other targets",
            });
        };
        let ((outputs, loss), tape) = Tape::of(|| {
            let outputs = model.forward(&inputs, Mode::Train(random.from_sample(first as u32)))?; // (batch, classes)
            let loss = loss.sum(&outputs, &targets)?;
            Ok::<_, candle_core::Error>((outputs, loss))
        })?;
        let gradients = tape.backward(&loss, trained.iter().map(|(_, var)| var))?;
        let gradients = gradients::in_order(gradients, trained)?;
        let (loss, outputs) = (loss.detach(), outputs.detach());
        total = Some(match total {
            None => (loss.clone(), gradients),
            Some((losses, sums)) => {
                let sums = sums.iter().zip(&gradients).map(|(sum, gradient)| sum + gradient);
                ((losses + &loss)?, sums.collect::<TensorResult<_>>()?)
            }
        });
        counted.push((loss, outputs, labels));
    }
    let (loss, gradients) = total.expect("a step has a batch");
    end.update(clock, (&loss, &gradients), 1.0 / of_step as f64, config.clip)?;
    for (left, (loss, outputs, labels)) in (0..counted.len()).rev().zip(&counted) {
        end.count(clock, (loss, outputs, labels), left == 0)?;
    }
    Ok(())
}

impl Samples {
    /// The samples of epochs of at most `count` samples.
    fn of(data: &dyn Data, count: usize, device: &Device) -> TensorResult<Self> {
        let Some(Bytes { pixels, labels, table, shape }) = data.train_bytes() else {
            return Ok(Self::Copied(Vec::new()));
        };
        match Examples::new((&pixels, &labels), table, shape, device) {
            Ok(examples) => {
                Ok(Self::Resident { examples, order: Tensor::zeros(count, DType::U32, device)? })
            }
            // A batch may fit where all images do not.
            Err(_) => Ok(Self::Copied(Vec::new())),
        }
    }

    /// Batch `index` of a step.
    fn batch(&self, index: usize, range: Range<usize>, of_step: usize) -> TensorResult<Batch> {
        match self {
            Self::Copied(batches) => Ok(batches[index].clone()),
            Self::Resident { examples, order } => {
                let (inputs, labels) =
                    examples.batch(order, (range.start, range.len()), of_step)?;
                Ok(Batch::new(inputs, labels))
            }
        }
    }
}
