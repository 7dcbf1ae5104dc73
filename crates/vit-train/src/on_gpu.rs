//! Training steps on a GPU: the first is run and recorded, the others repeat it with one launch each.
//!
//! A batch is one shard there. Nothing waits for a step: what it gives is added up on the GPU, and taken when it is asked
//! for. Where a loss or a gradient is no finite number, parameters stay what they were before that step.

use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};
use vit_ops::cuda::{AdamSlot, AdamUpdate, Clock, Examples, Fault, Graph, Step, Tally, Tape};
use vit_ops::{Mode, smoothed_cross_entropy_sum};
use vit_random::Random;

use crate::sums::Sums;
use crate::trainer::Trained;
use crate::{Batch, Bytes, Data, Error, Forward, Parameters, TrainConfig, gradients};

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

impl OnGpu {
    /// The steps of a run on this data, if all parameters are `f32` on a GPU. The moments are those of an earlier run's
    /// end, if there was one.
    pub(crate) fn of<F>(
        trained: &Trained<F>,
        data: &dyn Data,
        earlier: Option<Self>,
    ) -> Result<Option<Self>, Error> {
        let Trained { config, parameters, optimizer, averages, .. } = trained;
        let on_gpu = |var: &Var| var.device().is_cuda() && var.dtype() == DType::F32;
        let device = match parameters.first() {
            Some((_, first)) if parameters.iter().all(|(_, var)| on_gpu(var)) => first.device(),
            _ => return Ok(None),
        };
        let average = |index: usize| averages.map(|them| them.parameters()[index].1.clone());
        let slots = parameters.iter().zip(optimizer.decays()).enumerate();
        let slots = slots.map(|(index, ((_, var), decays))| AdamSlot {
            parameter: var.clone(),
            decays,
            average: average(index),
        });
        let steps = data.order(1).len() / config.samples_of_step();
        let mut step = match earlier {
            Some(earlier) => earlier.step,
            None => {
                let mut step = Step::new(device, slots.collect())?;
                if let Some(moments) = optimizer.moments()? {
                    let values = |moment: &Tensor| moment.flatten_all()?.to_vec1();
                    let moments = moments.iter().map(|[m, v]| Ok([values(m)?, values(v)?]));
                    step.set_moments(&moments.collect::<candle_core::Result<Vec<_>>>()?)?;
                }
                step
            }
        };
        step.make_room(steps)?;
        Ok(Some(Self {
            clock: Clock::new(device)?,
            step,
            samples: Samples::of(data, steps * config.samples_of_step(), device)?,
            graph: None,
            device: device.clone(),
            untaken: 0,
        }))
    }

    /// Begins an epoch whose first step is `first` of a run's `last`, with the order of its samples.
    pub(crate) fn begin_epoch<F>(
        &mut self,
        trained: &Trained<F>,
        (first, last): (u64, u64),
        order: &[u32],
    ) -> Result<(), Error> {
        let Trained { config, optimizer, averages, .. } = trained;
        let steps = order.len() / config.samples_of_step();
        let updates = (first..).take(steps).map(|step| {
            let lr = config.schedule.lr(config.optimizer.lr, step, last);
            let average_share = averages.map_or(0.0, |them| them.share(step - 1) as f32);
            optimizer.updates(step, lr).map(|update| AdamUpdate { average_share, ..update })
        });
        let updates: Vec<[AdamUpdate; 2]> = updates.collect();
        let [decaying, others] =
            [0, 1].map(|kind| updates.iter().map(move |both| both[kind]).collect::<Vec<_>>());
        self.step.set_updates(&decaying, &others)?;
        self.clock.set(first as u32, 0)?;
        if let Samples::Kept { order: kept, examples } = &self.samples {
            let order = &order[..steps * config.samples_of_step()];
            let count = examples.len();
            if let Some(index) = order.iter().find(|&&index| index as usize >= count) {
                let message = format!("expected indices below {count}, got {index}");
                return Err(candle_core::Error::Msg(message).into());
            }
            kept.slice_set(&Tensor::new(order, &self.device)?, 0, 0)?;
        }
        Ok(())
    }

    /// Launches a step on these samples of the epoch's order.
    pub(crate) fn launch(
        &mut self,
        trained: &Trained<impl Forward>,
        (epoch, samples): (u64, &[u32]),
        data: &dyn Data,
    ) -> Result<(), Error> {
        let Self { clock, step, samples: source, graph, device, untaken } = self;
        let config = trained.config;
        if let Samples::Fed(batches) = source {
            let each = samples.chunks(config.batch_size);
            let each = each.map(|indices| data.train_batch(epoch, indices));
            let fresh = each.collect::<candle_core::Result<Vec<_>>>()?;
            if fresh.iter().any(|batch| batch.mixed.is_some()) {
                return Err(Error::MixedOnGpu);
            }
            feed(batches, fresh)?;
        }
        *untaken += 1;
        if let Some(graph) = graph {
            #[expect(unsafe_code, reason = "only here is it known what a step reads")]
            // SAFETY: clock, end and samples of a step are fields beside the graph, and never replaced; the parameters
            // and their averages, which are variables and so stay where they are, are held by the end; what else the
            // model holds stays, as the README asks of it. A run stays on its thread.
            return Ok(unsafe { graph.launch() }?);
        }
        let recorded = Graph::warmed_up(device, || {
            clock.during(|| whole_step(trained, source, (clock, &mut *step)))
        });
        *graph = Some(recorded?);
        Ok(())
    }

    /// The moments of each parameter.
    pub(crate) fn moments(&self, parameters: &Parameters) -> Result<Vec<[Tensor; 2]>, Error> {
        let moments = self.step.moments()?.into_iter().zip(parameters);
        let tensors = moments.map(|(moments, (_, var))| {
            let [m, v] = moments.map(|values| Tensor::from_vec(values, var.shape(), &Device::Cpu));
            Ok([m?, v?])
        });
        Ok(tensors.collect::<candle_core::Result<_>>()?)
    }

    /// Waits for the steps so far, and takes what they have come to since the last time.
    pub(crate) fn take(
        &mut self,
        config: &TrainConfig,
        parameters: &Parameters,
        epoch: u64,
    ) -> Result<Sums, Error> {
        let Tally { loss_sum, correct, fault } = self.step.take()?;
        if let Some(Fault { step, parameter, value }) = fault {
            let of = |parameter: usize| format!("gradient of {}", parameters[parameter].0);
            let what = parameter.map_or_else(|| "loss".to_owned(), of);
            return Err(Error::NotFinite { step: step.into(), epoch, what, value });
        }
        let samples = std::mem::take(&mut self.untaken) * config.samples_of_step();
        Ok(Sums { loss_sum, correct: correct as usize, samples })
    }
}

/// Puts batches where those of the step before lie.
fn feed(to: &mut Vec<Batch>, from: Vec<Batch>) -> candle_core::Result<()> {
    if to.is_empty() {
        // Copies: whoever gave a batch may give parts of the same tensors again.
        let copy = |batch: Batch| {
            Ok(Batch { images: batch.images.copy()?, labels: batch.labels.copy()?, mixed: None })
        };
        *to = from.into_iter().map(copy).collect::<candle_core::Result<_>>()?;
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
    trained: &Trained<impl Forward>,
    samples: &Samples,
    (clock, end): (&Clock, &mut Step),
) -> Result<(), Error> {
    let Trained { config, forward, parameters, .. } = trained;
    let of_step = config.samples_of_step();
    // The clock says which step it is.
    let random = Random::new(config.seed).at_step(0);
    let mut total: Option<(Tensor, Vec<Tensor>)> = None;
    let mut counted = Vec::new();
    for (index, first) in (0..of_step).step_by(config.batch_size).enumerate() {
        let range = first..(first + config.batch_size).min(of_step);
        let Batch { images, labels, .. } = samples.batch(index, range, of_step)?;
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
    /// Those of epochs of at most `count` samples.
    fn of(data: &dyn Data, count: usize, device: &Device) -> candle_core::Result<Self> {
        let Some(Bytes { pixels, labels, table, shape }) = data.train_bytes() else {
            return Ok(Self::Fed(Vec::new()));
        };
        match Examples::new((&pixels, &labels), table, shape, device) {
            Ok(examples) => {
                Ok(Self::Kept { examples, order: Tensor::zeros(count, DType::U32, device)? })
            }
            // There may be room for batches where there is none for all.
            Err(_) => Ok(Self::Fed(Vec::new())),
        }
    }

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
                Ok(Batch { images, labels, mixed: None })
            }
        }
    }
}
