//! Training steps on a GPU: the first is run and recorded, the others repeat it with one launch each.
//!
//! A batch is one shard there. Nothing waits for a step: what it gives is added up on the GPU, and taken when it is asked
//! for. Where a loss or a gradient is no finite number, parameters stay what they were before that step.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use vit_ops::cuda::{AdamSlot, AdamUpdate, Clock, Examples, Graph, Step, Tally, Tape};
use vit_ops::{Mode, smoothed_cross_entropy_sum};
use vit_random::Random;

use crate::averages::Averages;
use crate::{Batch, Data, Error, Forward, Optimizer, Parameters, TrainConfig, gradients};

/// The GPU that all parameters are on, if there is one that steps can be recorded on.
pub(crate) fn of_all(parameters: &Parameters) -> Option<Device> {
    let on_gpu = |var: &candle_core::Var| var.device().is_cuda() && var.dtype() == DType::F32;
    let (_, first) = parameters.first()?;
    parameters.iter().all(|(_, var)| on_gpu(var)).then(|| first.device().clone())
}

/// The steps of a run.
pub(crate) struct OnGpu {
    clock: Clock,
    step: Step,
    samples: Samples,
    graph: Option<Graph>,
    device: Device,
    /// Steps whose numbers have not been taken.
    untaken: usize,
}

/// What a step reads: it must lie where it lay when the step was recorded.
enum Samples {
    /// All images, and the order of an epoch.
    Kept { examples: Examples, order: Tensor },
    /// The batches of a step, put there before each.
    Fed(Vec<Batch>),
}

/// What was added up, over so many steps.
pub(crate) struct Taken {
    pub(crate) tally: Tally,
    pub(crate) steps: usize,
}

impl OnGpu {
    /// Steps of epochs of at most `samples` samples.
    pub(crate) fn new(
        device: Device,
        config: &TrainConfig,
        (parameters, optimizer): (&Parameters, &Optimizer),
        averages: Option<&Averages>,
        (data, samples): (&dyn Data, usize),
    ) -> Result<Self, Error> {
        let average = |index: usize| averages.map(|them| them.parameters()[index].1.clone());
        let slots = parameters.iter().zip(optimizer.decays()).enumerate();
        let slots = slots.map(|(index, ((_, var), decays))| AdamSlot {
            parameter: var.clone(),
            decays,
            average: average(index),
        });
        let steps = samples / config.samples_of_step();
        let samples = match data.train_bytes() {
            None => Samples::Fed(Vec::new()),
            Some(bytes) => Samples::Kept {
                examples: Examples::new(
                    (&bytes.pixels, &bytes.labels),
                    bytes.table,
                    bytes.shape,
                    &device,
                )?,
                order: Tensor::zeros(steps * config.samples_of_step(), DType::U32, &device)?,
            },
        };
        let step = Step::new(&device, slots.collect(), steps)?;
        Ok(Self { clock: Clock::new(&device)?, step, samples, graph: None, device, untaken: 0 })
    }

    /// Begins an epoch whose first step is `first`, with the samples that it takes in order, and the numbers of each step
    /// for parameters that decay and for those that do not.
    pub(crate) fn begin_epoch(
        &mut self,
        first: u64,
        samples: &[u32],
        updates: &[[AdamUpdate; 2]],
    ) -> Result<(), Error> {
        self.clock.set(first as u32, 0)?;
        let [decaying, others] = [0, 1].map(|kind| updates.iter().map(move |both| both[kind]));
        self.step.set_updates(&decaying.collect::<Vec<_>>(), &others.collect::<Vec<_>>())?;
        if let Samples::Kept { order, .. } = &self.samples {
            order.slice_set(&Tensor::new(samples, &self.device)?, 0, 0)?;
        }
        Ok(())
    }

    /// Launches a step on these samples of the epoch's order.
    pub(crate) fn launch(
        &mut self,
        config: &TrainConfig,
        (forward, parameters): (&impl Forward, &Parameters),
        (epoch, samples): (u64, &[u32]),
        data: &dyn Data,
    ) -> Result<(), Error> {
        let Self { clock, step, samples: source, graph, device, untaken } = self;
        if let Samples::Fed(batches) = source {
            let each = samples.chunks(config.batch_size);
            let each = each.map(|indices| data.train_batch(epoch, indices));
            feed(batches, each.collect::<candle_core::Result<_>>()?)?;
        }
        *untaken += samples.len() / config.samples_of_step();
        if let Some(graph) = graph {
            return Ok(graph.launch()?);
        }
        let recorded = Graph::warmed_up(device, || {
            clock.during(|| whole_step(config, (forward, parameters), source, (clock, &mut *step)))
        });
        *graph = Some(recorded?);
        Ok(())
    }

    /// Waits for the steps so far, and takes what they have added up to since the last time.
    pub(crate) fn take(&mut self) -> Result<Taken, Error> {
        let steps = std::mem::take(&mut self.untaken);
        Ok(Taken { tally: self.step.take()?, steps })
    }
}

/// Puts batches where those of the step before lie.
fn feed(to: &mut Vec<Batch>, from: Vec<Batch>) -> candle_core::Result<()> {
    if to.is_empty() {
        *to = from;
        return Ok(());
    }
    for (to, from) in to.iter().zip(from) {
        to.images.slice_set(&from.images, 0, 0)?;
        to.labels.slice_set(&from.labels, 0, 0)?;
    }
    Ok(())
}

/// All that a step computes, its batches one after the other.
fn whole_step(
    config: &TrainConfig,
    (forward, parameters): (&impl Forward, &Parameters),
    samples: &Samples,
    (clock, end): (&Clock, &mut Step),
) -> Result<(), Error> {
    let of_step = config.samples_of_step();
    // The clock says which step it is.
    let random = Random::new(config.seed).at_step(0);
    let mut total: Option<(Tensor, Vec<Tensor>)> = None;
    let mut counted = Vec::new();
    for (index, first) in (0..of_step).step_by(config.batch_size).enumerate() {
        let range = first..(first + config.batch_size).min(of_step);
        let Batch { images, labels } = samples.batch(index, range, of_step)?;
        let ((logits, loss), tape) = Tape::of(|| {
            let logits = forward(&images, Mode::Train(random.from_sample(first as u32)))?; // (batch, classes)
            let loss = smoothed_cross_entropy_sum(&logits, &labels, config.label_smoothing)?;
            Ok::<_, candle_core::Error>((logits, loss))
        })?;
        let gradients = gradients::of_shard(
            tape.backward(&loss, parameters.iter().map(|(_, var)| var))?,
            parameters,
        )?;
        let (loss, logits) = (loss.detach(), logits.detach());
        total = Some(match total {
            None => (loss.clone(), gradients),
            Some((losses, sums)) => {
                let sums = sums.iter().zip(&gradients).map(|(sum, gradient)| sum + gradient);
                ((losses + &loss)?, sums.collect::<candle_core::Result<_>>()?)
            }
        });
        counted.push((loss, logits, labels));
    }
    let (loss, gradients) = total.expect("a step has a batch");
    end.update(clock, (&loss, &gradients), 1.0 / of_step as f64, config.clip)?;
    for (left, (loss, logits, labels)) in (0..counted.len()).rev().zip(&counted) {
        end.count(clock, (loss, logits, labels), left == 0)?;
    }
    Ok(())
}

impl Samples {
    /// A batch of a step.
    fn batch(
        &self,
        index: usize,
        range: Range<usize>,
        of_step: usize,
    ) -> candle_core::Result<Batch> {
        match self {
            Self::Fed(batches) => Ok(batches[index].clone()),
            Self::Kept { examples, order } => {
                let (images, labels) =
                    examples.batch(order, (range.start, range.len()), of_step)?;
                Ok(Batch { images, labels })
            }
        }
    }
}
