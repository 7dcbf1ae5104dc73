//! Training on several ranks is bit-identical to training on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use vit_layers::Parameters;
use vit_ops::{DropRate, Mode};
use vit_random::Site;

use super::*;
use crate::collective::tests::Threads;
use crate::{Collective, Group, Model, OptimizerConfig, Schedule, ScheduleKind};

/// Points on a line, labelled by their sign, and augmented by epoch and index in training.
struct Points;

fn points(indices: &[u32], moved: impl Fn(u32) -> f32) -> TensorResult<Batch> {
    let place = |&index: &u32| (index as f32 * 0.618).fract() - 0.5 + moved(index);
    let xs: Vec<f32> = indices.iter().map(place).collect();
    let labels: Vec<u32> = xs.iter().map(|&x| u32::from(x > 0.0)).collect();
    let len = xs.len();
    Ok(Batch::new(
        Tensor::from_vec(xs, (len, 1), &Device::Cpu)?,
        Tensor::from_vec(labels, len, &Device::Cpu)?,
    ))
}

impl Data for Points {
    fn order(&self, epoch: u64) -> Vec<u32> {
        (0..70).map(|index| (index * 9 + epoch as u32) % 70).collect()
    }
    fn train_batch(&self, epoch: u64, indices: &[u32]) -> TensorResult<Batch> {
        points(indices, |index| ((index as f32 + epoch as f32) * 0.37).fract() * 0.1)
    }
    fn val_len(&self) -> usize {
        21
    }
    fn val_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        points(indices, |_| 0.003)
    }
    fn test_len(&self) -> usize {
        133
    }
    fn test_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        points(indices, |_| 0.0)
    }
}

/// Uses every setting: three epochs of five steps, each of two batches of seven in shards of one or two samples.
fn recipe() -> TrainConfig {
    TrainConfig {
        batch_size: 7,
        shards: 5,
        accumulate: 2,
        seed: 1,
        log_every: 2,
        label_smoothing: 0.1,
        clip: Some(0.05),
        ema: Some(0.9),
        patience: Some(2),
        schedule: Schedule { kind: ScheduleKind::Cosine, warmup: Some(4), min_lr: Some(0.001) },
        ..TrainConfig::new(3, OptimizerConfig::adamw(0.01, 0.05))
    }
}

/// Two layers with dropout between; the borders of ranks' slices lie inside both.
fn model(vb: &VarBuilder) -> TensorResult<impl Model + use<>> {
    let init = Init::Uniform { lo: -0.1, up: 0.1 };
    let trunk = vb.pp("trunk").get_with_hints((4500, 1), "weight", init)?;
    let bias = vb.pp("trunk").get_with_hints(4500, "bias", init)?;
    let head = vb.pp("head").get_with_hints((2, 4500), "weight", init)?;
    let rate = DropRate::new(0.2).expect("a rate below 1");
    Ok(move |xs: &Tensor, mode: Mode| {
        let hidden = vit_ops::linear(xs, &trunk, Some(&bias))?.tanh()?;
        let hidden = match mode {
            Mode::Eval => hidden,
            Mode::Train(random) => vit_ops::dropout(&hidden, rate, Site::named("drop"), &random)?,
        };
        vit_ops::linear(&hidden, &head, None)
    })
}

/// An observer that acts on one rank and records its calls.
#[derive(Default)]
struct Heard {
    records: Vec<Record>,
    /// Where to keep the state.
    at: Option<Checkpoint>,
    state: Option<TrainState>,
    /// Requests the end of the run when it is asked for the nth time.
    ends_after: Option<usize>,
    asked: Arc<AtomicUsize>,
    /// Multiplies the learning rate by this after step 3, and requests an evaluation.
    steers: Option<f64>,
    evaluations: usize,
}

impl Observer for Heard {
    type Error = Error;
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.records.push(record.clone());
        Ok(())
    }
    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<(), Error> {
        if let (3, Some(scale)) = (step.step(), self.steers) {
            step.set_lr_scale(scale);
            step.evaluate();
        }
        Ok(())
    }
    fn evaluated(&mut self, _: &Evaluated<'_>) -> Result<(), Error> {
        self.evaluations += 1;
        Ok(())
    }
    fn ending(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        let (asked, after) = (Arc::clone(&self.asked), self.ends_after.unwrap_or(usize::MAX));
        Box::new(move || asked.fetch_add(1, Ordering::Relaxed) >= after)
    }
    fn wants_state(&mut self, at: Checkpoint) -> bool {
        at.is_last() || Some(at) == self.at
    }
    fn checkpoint(
        &mut self,
        at: Checkpoint,
        state: &mut dyn FnMut() -> Result<TrainState, Error>,
    ) -> Result<(), Error> {
        if (at.is_last() && self.state.is_none()) || Some(at) == self.at {
            self.state = state().ok();
        }
        Ok(())
    }
}

/// The bits of a rank's parameters and weights, and its observer.
type Trained = (Vec<Vec<u32>>, Heard);

fn bits(vars: &NamedVars) -> Vec<Vec<u32>> {
    let bits = |var: &candle_core::Var| {
        let values = var.flatten_all().and_then(|var| var.to_vec1::<f32>()).expect("f32");
        values.into_iter().map(f32::to_bits).collect()
    };
    vars.iter().map(|(_, var)| bits(var)).collect()
}

/// Trains on these ranks with this many threads each.
fn train(
    config: &TrainConfig,
    (ranks, threads): (usize, usize),
    resumed: Option<&TrainState>,
    observer: impl Fn(usize) -> Heard + Sync,
) -> Vec<Result<Trained, Error>> {
    let one = |ranks: Arc<dyn Collective>| -> Result<Trained, Error> {
        let parameters = Parameters::seeded(7);
        let vb = parameters.builder(DType::F32, &Device::Cpu);
        let rank = ranks.rank();
        let builder = Trainer::builder(config.clone()).threads(threads).ranks(ranks);
        let builder = builder.join_shards(100);
        let builder = builder.groups(|name, _| match name {
            "trunk.bias" => Group::new().with_weight_decay(0.0),
            _ => Group::new(),
        });
        let mut trainer = builder.build(&vb, |vb| model(&vb))?;
        if let Some(state) = resumed {
            trainer.resume(state)?;
        }
        let mut heard = observer(rank);
        trainer.run(&Points, &mut heard)?;
        Ok(([bits(&trainer.parameters), bits(trainer.weights())].concat(), heard))
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = Threads::ranks(ranks)
            .into_iter()
            .map(|rank| scope.spawn(move || one(Arc::new(rank))))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank does not panic")).collect()
    })
}

/// Like [`train`], checking that all ranks succeed with the same parameters; returns those and rank 0's observer.
fn trained(
    config: &TrainConfig,
    on: (usize, usize),
    resumed: Option<&TrainState>,
    observer: impl Fn(usize) -> Heard + Sync,
) -> Result<Trained, Error> {
    let mut all =
        train(config, on, resumed, observer).into_iter().collect::<Result<Vec<_>, _>>()?;
    for (rank, (bits, heard)) in all.iter().enumerate() {
        assert!(*bits == all[0].0, "rank {rank} of {} has other parameters", on.0);
        assert_eq!(timeless(&heard.records), timeless(&all[0].1.records));
    }
    Ok(all.swap_remove(0))
}

fn timeless(records: &[Record]) -> Vec<Record> {
    let timeless = |record: &Record| match record {
        Record::Epoch(epoch) => Record::Epoch(EpochMetrics {
            images_per_second: 0.0,
            seconds: 0.0,
            waiting_seconds: None,
            ..epoch.clone()
        }),
        other => other.clone(),
    };
    records.iter().map(timeless).collect()
}

fn bits_of(tensors: &crate::Tensors) -> Vec<(String, Vec<u32>)> {
    let bits = |tensor: &Tensor| -> Vec<u32> {
        let values = tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>()).expect("f32");
        values.into_iter().map(f32::to_bits).collect()
    };
    tensors.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

fn assert_same_state(state: &TrainState, other: &TrainState) {
    assert_eq!(state.progress, other.progress);
    assert_eq!(state.order, other.order);
    assert!(bits_of(&state.parameters) == bits_of(&other.parameters));
    let averages = |state: &TrainState| state.averages.as_ref().map(bits_of);
    assert!(averages(state) == averages(other));
    let moments = |state: &TrainState| state.moments.iter().map(bits_of).collect::<Vec<_>>();
    assert!(moments(state) == moments(other) && state.moments.len() == 2);
}

#[test]
fn ranks_and_threads_do_not_change_a_bit() -> Result<(), Error> {
    let at = Some(Checkpoint::Step { step: 7, is_last: false });
    let keeping = |_| Heard { at, ..Heard::default() };
    // Passes join shards of two or three samples, but none of one.
    let joined = TrainConfig { shards: 3, ..recipe() };
    for config in [recipe(), TrainConfig { clip: None, ema: None, ..recipe() }, joined] {
        let (alone, one) = trained(&config, (1, 2), None, keeping)?;
        let state = one.state.expect("it was kept");
        let ranks = [(1, 1), (2, 1), (2, 2), (3, 1), (4, 3), (6, 1), (7, 1), (10, 1)];
        for on in ranks.into_iter().filter(|(ranks, _)| *ranks <= config.shards_of_step()) {
            let (bits, heard) = trained(&config, on, None, keeping)?;
            assert!(bits == alone, "{on:?} give other bits than one rank");
            assert_eq!(timeless(&heard.records), timeless(&one.records), "{on:?}");
            assert_same_state(&heard.state.expect("it was kept"), &state);
        }
    }
    Ok(())
}

#[test]
fn resuming_on_any_number_of_ranks_is_bit_identical() -> Result<(), Error> {
    let config = recipe();
    for at in [
        Checkpoint::Step { step: 7, is_last: false },
        Checkpoint::Epoch { step: 10, is_last: false },
    ] {
        let keeping = |_| Heard { at: Some(at), ..Heard::default() };
        let (whole, heard) = trained(&config, (3, 1), None, keeping)?;
        let state = heard.state.expect("it was kept");
        for on in [(1, 2), (2, 1), (4, 1)] {
            let (bits, _) = trained(&config, on, Some(&state), |_| Heard::default())?;
            assert!(bits == whole, "{at:?} on {on:?}");
        }
    }
    Ok(())
}

#[test]
fn any_rank_can_end_the_run_on_all_ranks_after_the_same_step() -> Result<(), Error> {
    let config = recipe();
    let (whole, _) = trained(&config, (1, 1), None, |_| Heard::default())?;
    // During a step, during an epoch's evaluation, or after it.
    for (ender, after) in [(0, 3), (1, 2), (2, 5), (2, 6), (1, 7)] {
        let ending =
            |rank| Heard { ends_after: (rank == ender).then_some(after), ..Heard::default() };
        let (bits, heard) = trained(&config, (3, 1), None, ending)?;
        assert!(bits != whole, "{ender} {after}");
        let state = heard.state.expect("the last one is kept");
        assert!(state.progress.step < 15, "{:?}", state.progress);
        let (bits, _) = trained(&config, (2, 1), Some(&state), |_| Heard::default())?;
        assert!(bits == whole, "{ender} {after}");
    }
    Ok(())
}

#[test]
fn only_rank_0_steers() -> Result<(), Error> {
    let steering = |steers: Option<f64>, rank| Heard {
        steers: if rank == 0 { steers } else { Some(0.0) },
        ..Heard::default()
    };
    let (alone, one) = trained(&recipe(), (1, 1), None, |rank| steering(Some(0.5), rank))?;
    let (bits, heard) = trained(&recipe(), (3, 1), None, |rank| steering(Some(0.5), rank))?;
    assert!(bits == alone);
    assert_eq!((one.evaluations, heard.evaluations), (4, 4));
    Ok(())
}

#[test]
fn a_non_finite_value_is_the_same_error_on_every_rank() {
    // The loss of step 2, and a gradient that overflows while the loss is finite.
    let large = OptimizerConfig::sgd(1e38, 0.0);
    let config = TrainConfig { clip: None, ema: None, optimizer: large, ..recipe() };
    let config = TrainConfig { schedule: Schedule::default(), ..config };
    let message = |on| -> Vec<String> {
        let all = train(&config, on, None, |_| Heard::default());
        all.into_iter().map(|one| one.err().expect("an error").to_string()).collect()
    };
    let alone = message((1, 1));
    assert!(alone[0].contains("expected a finite"), "{alone:?}");
    for ranks in [2, 3] {
        assert_eq!(message((ranks, 1)), vec![alone[0].clone(); ranks]);
    }
}

#[test]
fn more_ranks_than_shards_are_rejected() {
    let config = TrainConfig { accumulate: 1, shards: 2, ..recipe() };
    for error in train(&config, (3, 1), None, |_| Heard::default()) {
        let error = error.err().expect("an error").to_string();
        assert_eq!(error, "expected at most 2 ranks, one for each shard of a step, got 3");
    }
}
