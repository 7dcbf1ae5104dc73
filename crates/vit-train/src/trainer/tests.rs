//! Tests of the training loop.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{Group, Loss, MixedCrossEntropy, Model, OptimizerConfig, Schedule, ScheduleKind};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use vit_layers::Parameters;
use vit_ops::Mode;

/// Points on a line, labelled by their sign.
struct Line;

fn line(indices: &[u32]) -> TensorResult<Batch> {
    let xs: Vec<f32> = indices.iter().map(|&i| (i as f32 * 0.618).fract() - 0.5).collect();
    let labels: Vec<u32> = xs.iter().map(|&x| u32::from(x > 0.0)).collect();
    let len = xs.len();
    Ok(Batch::new(
        Tensor::from_vec(xs, (len, 1), &Device::Cpu)?,
        Tensor::from_vec(labels, len, &Device::Cpu)?,
    ))
}

impl Data for Line {
    fn order(&self, epoch: u64) -> Vec<u32> {
        (0..50).map(|index| (index * 7 + epoch as u32) % 50).collect()
    }
    fn train_batch(&self, _epoch: u64, indices: &[u32]) -> TensorResult<Batch> {
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
        batch_size: 8,
        shards: 3,
        seed: 1,
        log_every: 2,
        ..TrainConfig::new(3, OptimizerConfig::adam(0.1))
    }
}

impl Observer for Vec<Record> {
    type Error = Error;
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.push(record.clone());
        Ok(())
    }
    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<(), Error> {
        if step.step() == 20 {
            step.stop();
        }
        Ok(())
    }
}

/// The same points, each mixed with the next one by the weight `share` of its index.
struct MixedLine {
    share: fn(u32) -> f32,
}

impl Data for MixedLine {
    fn order(&self, epoch: u64) -> Vec<u32> {
        Line.order(epoch)
    }
    fn train_batch(&self, _epoch: u64, indices: &[u32]) -> TensorResult<Batch> {
        let next: Vec<u32> = indices.iter().map(|index| (index + 1) % 50).collect();
        let shares: Vec<f32> = indices.iter().map(|&index| (self.share)(index)).collect();
        let (batch, others, shares) =
            (line(indices)?, line(&next)?, Tensor::new(shares, &Device::Cpu)?);
        let moved = (others.inputs - &batch.inputs)?.broadcast_mul(&shares.unsqueeze(1)?)?;
        let targets = [batch.targets, others.targets, vec![shares]].concat();
        Ok(Batch::with_targets((batch.inputs + moved)?, targets))
    }
    fn test_len(&self) -> usize {
        Line.test_len()
    }
    fn test_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        line(indices)
    }
}

fn run(config: TrainConfig, threads: usize) -> Result<(Vec<f32>, Vec<Record>), Error> {
    run_on(&Line, config, threads)
}

fn run_on(
    data: &dyn Data,
    config: TrainConfig,
    threads: usize,
) -> Result<(Vec<f32>, Vec<Record>), Error> {
    run_joined(0, data, config, threads)
}

/// In passes of several shards, up to this many samples.
fn run_joined(
    samples: usize,
    data: &dyn Data,
    config: TrainConfig,
    threads: usize,
) -> Result<(Vec<f32>, Vec<Record>), Error> {
    let weight = Var::new(&[[0.1_f32], [-0.2]], &Device::Cpu)?;
    let parameters = vec![("w".to_owned(), weight.clone())];
    let tracked = weight.as_tensor().clone();
    let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
    let smoothing = config.label_smoothing;
    let mut records = Vec::new();
    let mut trainer = Trainer::builder(config).threads(threads).join_shards(samples);
    if data.train_batch(1, &[0])?.targets.len() > 1 {
        trainer = trainer.loss(MixedCrossEntropy::smoothed(smoothing));
    }
    trainer.model(forward, parameters)?.run(data, &mut records)?;
    Ok((weight.flatten_all()?.to_vec1()?, records))
}

/// Records an observer's calls in order.
#[derive(Default)]
struct Calls(Vec<String>);

impl Observer for Calls {
    type Error = Error;
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.0.push(match record {
            Record::Step(step) => format!("record of step {}", step.step),
            Record::Epoch(epoch) => format!("record of epoch {}", epoch.epoch),
            other => format!("{other:?}"),
        });
        Ok(())
    }
    fn checkpoint(
        &mut self,
        at: Checkpoint,
        _state: &mut dyn FnMut() -> Result<TrainState, Error>,
    ) -> Result<(), Error> {
        self.0.push(format!("checkpoint at {}", at.step()));
        Ok(())
    }
    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<(), Error> {
        self.0.push(format!("step {}", step.step()));
        Ok(())
    }
}

/// An observer that blocks a step until data is on disk also delays its record.
#[test]
fn after_step_comes_before_record_and_record_before_checkpoint() -> Result<(), Error> {
    let weight = Var::new(&[[0.1_f32], [-0.2]], &Device::Cpu)?;
    let (parameters, tracked) =
        (vec![("w".to_owned(), weight.clone())], weight.as_tensor().clone());
    let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
    let config = TrainConfig { max_steps: Some(3), ..config() };
    let mut calls = Calls::default();
    Trainer::new(config, forward, parameters, 1)?.run(&Line, &mut calls)?;
    let expected = [
        "step 1",
        "checkpoint at 1",
        "step 2",
        "record of step 2",
        "checkpoint at 2",
        "step 3",
        "record of epoch 1",
        "checkpoint at 3",
    ];
    assert_eq!(calls.0, expected);
    Ok(())
}

#[test]
fn training_learns_and_records_as_configured() -> Result<(), Error> {
    let (_, records) = run(config(), 1)?;
    // Six batches of eight an epoch, a record after every second: three, then the epoch's.
    assert_eq!(records.len(), 3 * (3 + 1));
    let Some(Record::Epoch(last)) = records.last() else { panic!("no epoch at the end") };
    assert_eq!((last.epoch, last.step), (3, 18));
    assert!(last.test_accuracy > Some(0.9) && last.train_loss < 0.69, "{last:?}");
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
fn a_non_finite_loss_stops_the_run() {
    let weight = Var::new(&[[f32::NAN], [0.0]], &Device::Cpu).expect("a small tensor");
    let tracked = weight.as_tensor().clone();
    let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
    let trainer = Trainer::new(config(), forward, vec![("w".to_owned(), weight)], 1);
    let error = trainer.expect("a sound configuration").run(&Line, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "step 1 of epoch 1: expected a finite loss, got NaN");
}

#[test]
fn a_non_finite_last_update_is_found() {
    let optimizer = OptimizerConfig::adam(f64::from(f32::MAX));
    let error = run(TrainConfig { max_steps: Some(1), optimizer, ..config() }, 1).unwrap_err();
    assert!(error.to_string().contains("expected a finite test loss"), "{error}");
}

#[test]
fn a_parameter_without_gradient_stops_the_run() {
    let weight = Var::new(&[[0.1_f32], [0.0]], &Device::Cpu).expect("a small tensor");
    let tracked = weight.as_tensor().clone();
    let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
    let idle = Var::new(1.0_f32, &Device::Cpu).expect("a small tensor");
    let parameters = vec![("w".to_owned(), weight), ("idle".to_owned(), idle)];
    let trainer = Trainer::new(config(), forward, parameters, 1);
    let error = trainer.expect("a sound configuration").run(&Line, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "no gradient reached 1 of 2 parameters: idle");
}

#[test]
fn fewer_samples_than_a_batch_are_rejected() {
    let error = run(TrainConfig { batch_size: 51, ..config() }, 1).unwrap_err().to_string();
    assert_eq!(error, "expected at least one batch of 51 training samples, got 50 samples");
}

/// Uses every setting except accumulation.
fn recipe() -> TrainConfig {
    TrainConfig {
        label_smoothing: 0.1,
        clip: Some(0.05),
        ema: Some(0.9),
        schedule: Schedule { kind: ScheduleKind::Cosine, warmup: Some(4), min_lr: Some(0.01) },
        ..config()
    }
}

#[test]
fn threads_do_not_change_a_bit_with_every_setting() -> Result<(), Error> {
    let recipe = TrainConfig { accumulate: 2, ..recipe() };
    let (one, _) = run(recipe.clone(), 1)?;
    for threads in [2, 4] {
        assert_eq!(run(recipe.clone(), threads)?.0, one);
    }
    assert_ne!(run(config(), 1)?.0, one);
    Ok(())
}

fn losses(records: &[Record]) -> Vec<f64> {
    let loss = |record: &Record| match record {
        Record::Step(step) => step.loss,
        Record::Epoch(epoch) => epoch.train_loss,
        _ => f64::NAN,
    };
    records.iter().map(loss).collect()
}

const HALF_MIXED: MixedLine = MixedLine { share: |index| (index % 7) as f32 / 6.0 };

#[test]
fn accumulated_batches_are_bit_identical_to_one_large_batch() -> Result<(), Error> {
    let large = TrainConfig { batch_size: 16, shards: 6, ..recipe() };
    let parts = TrainConfig { batch_size: 8, shards: 3, accumulate: 2, ..recipe() };
    for data in [&Line as &dyn Data, &HALF_MIXED] {
        let [(large, large_records), (parts, parts_records)] =
            [run_on(data, large.clone(), 2)?, run_on(data, parts.clone(), 2)?];
        assert_eq!(large, parts);
        assert_eq!(losses(&large_records), losses(&parts_records));
    }
    Ok(())
}

#[test]
fn joined_shards_do_not_change_a_bit() -> Result<(), Error> {
    let uneven = TrainConfig { batch_size: 16, shards: 7, ..recipe() };
    let parts = TrainConfig { batch_size: 8, shards: 4, accumulate: 3, ..recipe() };
    for config in [uneven, parts] {
        for data in [&Line as &dyn Data, &HALF_MIXED] {
            let (weights, records) = run_on(data, config.clone(), 2)?;
            for (threads, samples) in [(1, 100), (1, 5), (2, 100), (3, 100)] {
                let (joined, records_of_joined) =
                    run_joined(samples, data, config.clone(), threads)?;
                assert_eq!(joined, weights, "{threads} threads, {samples} samples");
                assert_eq!(losses(&records_of_joined), losses(&records));
            }
        }
    }
    Ok(())
}

#[test]
fn threads_do_not_change_a_bit_with_mixed_samples() -> Result<(), Error> {
    let (one, _) = run_on(&HALF_MIXED, recipe(), 1)?;
    for threads in [2, 4] {
        assert_eq!(run_on(&HALF_MIXED, recipe(), threads)?.0, one);
    }
    assert_ne!(run(recipe(), 1)?.0, one);
    Ok(())
}

/// The loss is computed differently, so they agree to rounding, not bit for bit.
#[test]
fn mixing_with_weight_zero_trains_like_unmixed_samples() -> Result<(), Error> {
    let [(want, plain), (got, mixed)] =
        [run(recipe(), 1)?, run_on(&MixedLine { share: |_| 0.0 }, recipe(), 1)?];
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 1e-4, "{got} {want}");
    }
    for (got, want) in losses(&mixed).iter().zip(losses(&plain)) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
    Ok(())
}

#[test]
fn recorded_rates_follow_the_schedule_over_the_whole_run() -> Result<(), Error> {
    let rates = |config: TrainConfig| -> Result<Vec<(u64, f64)>, Error> {
        let (_, records) = run(TrainConfig { log_every: 1, ..config }, 1)?;
        let rate = |record| match record {
            Record::Step(step) => Some((step.step, step.lr)),
            _ => None,
        };
        Ok(records.into_iter().filter_map(rate).collect())
    };
    let schedule = recipe().schedule;
    // Three epochs of six steps, or fewer by `max_steps`.
    for (max_steps, steps) in [(None, 18), (Some(7), 7)] {
        let got = rates(TrainConfig { max_steps, ..recipe() })?;
        let want = (1..=steps).map(|step| (step, schedule.lr(0.1, step, steps)));
        assert_eq!(got, want.collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn the_average_is_evaluated_but_does_not_affect_training() -> Result<(), Error> {
    let with = |ema| run(TrainConfig { ema, ..config() }, 1);
    let tests = |records: &[Record]| -> Vec<(f64, f64)> {
        let epoch = |record: &Record| match record {
            Record::Epoch(epoch) => {
                Some((epoch.train_loss, epoch.test_loss.expect("every epoch is evaluated")))
            }
            _ => None,
        };
        records.iter().filter_map(epoch).collect()
    };
    let [(raw, plain), (same, averaged)] = [with(None)?, with(Some(0.99))?];
    assert_eq!(raw, same);
    for (plain, averaged) in tests(&plain).iter().zip(tests(&averaged)) {
        assert_eq!(plain.0, averaged.0);
        assert_ne!(plain.1, averaged.1);
    }
    // With decay 0 the average is the last step's parameters.
    assert_eq!(tests(&with(Some(0.0))?.1), tests(&plain));
    Ok(())
}

#[test]
fn out_of_range_settings_are_named() {
    let message = |config: TrainConfig| config.check().unwrap_err().to_string();
    for (config, expected) in [
        (TrainConfig { accumulate: 0, ..config() }, "expected accumulate of at least 1, got 0"),
        (TrainConfig { clip: Some(0.0), ..config() }, "expected clip above 0, got 0"),
        (TrainConfig { ema: Some(1.0), ..config() }, "expected ema in [0, 1), got 1"),
        (
            TrainConfig { label_smoothing: -0.1, ..config() },
            "expected label_smoothing in [0, 1), got -0.1",
        ),
    ] {
        assert_eq!(message(config), expected);
    }
}

/// Keeps the state at one checkpoint, and ends the run there or continues.
struct Keeper {
    at: Checkpoint,
    state: Option<TrainState>,
    records: Vec<Record>,
    /// Number of records before the state.
    told: usize,
}

impl Observer for Keeper {
    type Error = Error;
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.records.push(record.clone());
        Ok(())
    }
    fn checkpoint(
        &mut self,
        at: Checkpoint,
        state: &mut dyn FnMut() -> Result<TrainState, Error>,
    ) -> Result<(), Error> {
        if at == self.at {
            self.state = Some(state()?);
            self.told = self.records.len();
        }
        Ok(())
    }
}

/// Trains a model with dropout, from the beginning or a state; returns its weights, and its observer with the records
/// and the state at `at`.
fn kept(
    config: &TrainConfig,
    resumed: Option<&TrainState>,
    at: Checkpoint,
) -> Result<(Vec<u32>, Keeper), Error> {
    let weight = Var::new(&[[0.1_f32], [-0.2]], &Device::Cpu)?;
    let parameters = vec![("w".to_owned(), weight.clone())];
    let tracked = weight.as_tensor().clone();
    let rate = vit_ops::DropRate::new(0.2).expect("a rate below 1");
    let site = vit_random::Site::named("drop");
    let forward = move |xs: &Tensor, mode: Mode| {
        let logits = vit_ops::linear(xs, &tracked, None)?;
        match mode {
            Mode::Eval => Ok(logits),
            Mode::Train(random) => vit_ops::dropout(&logits, rate, site, &random),
        }
    };
    let mut trainer = Trainer::new(config.clone(), forward, parameters, 2)?;
    if let Some(state) = resumed {
        trainer.resume(state)?;
    }
    let mut keeper = Keeper { at, state: None, records: Vec::new(), told: 0 };
    trainer.run(&Line, &mut keeper)?;
    let kept = trainer.weights()[0].1.flatten_all()?.to_vec1::<f32>()?;
    Ok((kept.into_iter().map(f32::to_bits).collect(), keeper))
}

fn timeless(records: &[Record]) -> Vec<Record> {
    let timeless = |record: &Record| match record.clone() {
        Record::Epoch(epoch) => Record::Epoch(EpochMetrics {
            images_per_second: 0.0,
            waiting_seconds: None,
            seconds: 0.0,
            ..epoch
        }),
        step => step,
    };
    records.iter().map(timeless).collect()
}

#[test]
fn resuming_at_any_step_is_bit_identical() -> Result<(), Error> {
    let schedule = Schedule { kind: ScheduleKind::Cosine, ..Schedule::default() };
    let config = TrainConfig {
        ema: Some(0.9),
        schedule,
        log_every: 4,
        accumulate: 2,
        batch_size: 4,
        ..config()
    };
    let sgd = OptimizerConfig::sgd(0.1, 0.9);
    for optimizer in [config.optimizer, sgd, OptimizerConfig { momentum: 0.0, ..sgd }] {
        assert_resuming_is_bit_identical(&TrainConfig { optimizer, ..config.clone() })?;
    }
    Ok(())
}

fn assert_resuming_is_bit_identical(config: &TrainConfig) -> Result<(), Error> {
    let never = Checkpoint::Step { step: 0, is_last: false };
    let (whole, all) = kept(config, None, never)?;
    let places = (1..=18).map(|step| match step {
        6 | 12 | 18 => Checkpoint::Epoch { step, is_last: step == 18 },
        _ => Checkpoint::Step { step, is_last: false },
    });
    for at in places {
        let (_, first) = kept(config, None, at)?;
        let state = first.state.unwrap_or_else(|| panic!("no state at {at:?}"));
        let (resumed, rest) = kept(config, Some(&state), never)?;
        assert_eq!(resumed, whole, "{at:?}");
        let records = [&first.records[..first.told], &rest.records].concat();
        assert_eq!(timeless(&records), timeless(&all.records), "{at:?}");
    }
    Ok(())
}

/// Ends a run at a step, or after being asked a number of times; keeps the state it receives there.
struct Ender {
    step: u64,
    after: usize,
    asked: Arc<AtomicUsize>,
    state: Option<TrainState>,
    records: Vec<Record>,
    /// Number of records before the state.
    told: usize,
}

impl Ender {
    fn new(step: u64, after: usize) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        Self { step, after, asked, state: None, records: Vec::new(), told: 0 }
    }
}

impl Observer for Ender {
    type Error = Error;
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.records.push(record.clone());
        Ok(())
    }
    fn ending(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        let (asked, after) = (Arc::clone(&self.asked), self.after);
        Box::new(move || asked.fetch_add(1, Ordering::Relaxed) >= after)
    }
    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<(), Error> {
        if step.step() == self.step {
            step.stop();
        }
        Ok(())
    }
    fn checkpoint(
        &mut self,
        at: Checkpoint,
        state: &mut dyn FnMut() -> Result<TrainState, Error>,
    ) -> Result<(), Error> {
        if at.is_last() {
            assert!(self.state.is_none(), "it went on after its end");
            self.state = Some(state()?);
            self.told = self.records.len();
        }
        Ok(())
    }
}

/// Trains with an EMA, from the beginning or a state; returns parameters, averages and the observer.
fn averaged(
    max_steps: u64,
    resumed: Option<&TrainState>,
    mut ender: Ender,
) -> Result<([Vec<f32>; 2], Ender), Error> {
    let weight = Var::new(&[[0.1_f32], [-0.2]], &Device::Cpu)?;
    let tracked = weight.as_tensor().clone();
    let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
    let config = TrainConfig { ema: Some(0.9), max_steps: Some(max_steps), ..config() };
    let mut trainer = Trainer::new(config, forward, vec![("w".to_owned(), weight.clone())], 2)?;
    if let Some(state) = resumed {
        trainer.resume(state)?;
    }
    trainer.run(&Line, &mut ender)?;
    let values = |var: &Var| var.flatten_all()?.to_vec1::<f32>();
    Ok(([values(&weight)?, values(&trainer.weights()[0].1)?], ender))
}

/// Ends at a step anywhere in an epoch, at the last step, during an evaluation, or after it.
#[test]
fn ending_and_resuming_anywhere_gives_the_same_bits_and_records() -> Result<(), Error> {
    // The last epoch has two of its six steps, or all.
    for max_steps in [14, 18] {
        let (whole, all) = averaged(max_steps, None, Ender::new(0, usize::MAX))?;
        let asked = all.asked.load(Ordering::Relaxed);
        assert!(asked >= 5, "asked {asked} times");
        let with_steps = (1..=max_steps).map(|step| (step, usize::MAX));
        // The last question comes after the end of the run.
        for (step, after) in with_steps.chain((0..asked).map(|after| (0, after))) {
            let (_, first) = averaged(max_steps, None, Ender::new(step, after))?;
            let state = first.state.unwrap_or_else(|| panic!("no state: {step}, {after}"));
            let (resumed, rest) = averaged(max_steps, Some(&state), Ender::new(0, usize::MAX))?;
            assert_eq!(resumed, whole, "{step}, {after}");
            let records = [&first.records[..first.told], &rest.records].concat();
            assert_eq!(timeless(&records), timeless(&all.records), "{step}, {after}");
        }
    }
    Ok(())
}

#[test]
fn a_state_of_another_run_is_rejected() -> Result<(), Error> {
    let at = Checkpoint::Step { step: 2, is_last: false };
    let state = kept(&config(), None, at)?.1.state.expect("two steps were taken");
    let refused = |config: &TrainConfig, state: &TrainState| match kept(config, Some(state), at) {
        Err(Error::State { expected, got }) => format!("{expected}; {got}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    };
    let averaged = TrainConfig { ema: Some(0.9), ..config() };
    assert_eq!(refused(&averaged, &state), "moving averages; none");
    let mut other = state.clone();
    other.order = "0".repeat(64);
    assert!(refused(&config(), &other).starts_with("samples of epoch 1 in an order of SHA-256 "));
    let mut other = state.clone();
    other.parameters.insert("v".to_owned(), Tensor::new(&[1.0_f32], &Device::Cpu)?);
    assert_eq!(refused(&config(), &other), "no parameter v; one");
    let mut other = state;
    other.parameters.clear();
    assert_eq!(refused(&config(), &other), "parameter w of shape [2, 1]; none");
    Ok(())
}

/// Two layers; the first is the trunk.
fn two_layers(vb: &VarBuilder) -> TensorResult<impl Model + use<>> {
    let init = Init::Uniform { lo: -1.0, up: 1.0 };
    let trunk = vb.pp("trunk").get_with_hints((4, 1), "weight", init)?;
    let head = vb.pp("head").get_with_hints((2, 4), "weight", init)?;
    Ok(move |xs: &Tensor, _: Mode| {
        vit_ops::linear(&vit_ops::linear(xs, &trunk, None)?, &head, None)
    })
}

fn freeze_trunk(name: &str, _: &Tensor) -> Group {
    if name.starts_with("trunk.") { Group::frozen() } else { Group::new() }
}

#[test]
fn evaluation_and_frozen_parameters_record_no_graph() -> Result<(), Error> {
    let parameters = Parameters::seeded(1);
    let vb = || parameters.builder(DType::F32, &Device::Cpu);
    let build = |vb: VarBuilder<'static>| two_layers(&vb);
    let live = Trainer::builder(config()).build(&vb(), build)?;
    let frozen = Trainer::builder(config()).groups(freeze_trunk).build(&vb(), build)?;
    let xs = Tensor::ones((3, 1), DType::F32, &Device::Cpu)?;
    let train = Mode::Train(vit_random::Random::new(1));
    for (trainer, trains_trunk) in [(live, true), (frozen, false)] {
        let model = &trainer.task.model;
        assert!(!model.forward(&xs, Mode::Eval)?.track_op());
        let gradients = model.forward(&xs, train)?.sum_all()?.backward()?;
        let reached: Vec<bool> =
            trainer.parameters.iter().map(|(_, var)| gradients.get(var).is_some()).collect();
        // By name: head, trunk.
        assert_eq!(reached, [true, trains_trunk]);
    }
    Ok(())
}

#[test]
fn frozen_parameters_do_not_change_and_are_in_checkpoints() -> Result<(), Error> {
    let parameters = Parameters::seeded(1);
    for config in [config(), TrainConfig { ema: Some(0.9), ..config() }] {
        let vb = parameters.builder(DType::F32, &Device::Cpu);
        let builder = Trainer::builder(config.clone()).groups(freeze_trunk);
        let mut trainer = builder.build(&vb, |vb| two_layers(&vb))?;
        let before = state::values(trainer.weights())?;
        let at = Checkpoint::Step { step: 8, is_last: false };
        let mut keeper = Keeper { at, state: None, records: Vec::new(), told: 0 };
        trainer.run(&Line, &mut keeper)?;
        let state = keeper.state.expect("eight steps were taken");
        let values = |tensors: &crate::Tensors, name: &str| {
            tensors[name].flatten_all().and_then(|tensor| tensor.to_vec1::<f32>())
        };
        for tensors in [&state.parameters, state.weights()] {
            assert_eq!(values(tensors, "trunk.weight")?, values(&before, "trunk.weight")?);
            assert_ne!(values(tensors, "head.weight")?, values(&before, "head.weight")?);
        }
        assert!(state.moments.iter().all(|moments| moments.keys().eq(["head.weight"])));
        let whole = state::values(trainer.weights())?;
        // Other initial values, which the state replaces.
        let vb = Parameters::seeded(2).builder(DType::F32, &Device::Cpu);
        let builder = Trainer::builder(config).groups(freeze_trunk);
        let mut trainer = builder.build(&vb, |vb| two_layers(&vb))?;
        trainer.resume(&state)?;
        trainer.run(&Line, &mut Vec::new())?;
        let again = state::values(trainer.weights())?;
        for name in ["head.weight", "trunk.weight"] {
            assert_eq!(values(&again, name)?, values(&whole, name)?, "{name}");
        }
    }
    Ok(())
}

#[test]
fn two_layers_with_one_parameter_path_are_an_error() {
    let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
    let twice = |vb: VarBuilder<'static>| {
        let _trunk = two_layers(&vb)?;
        two_layers(&vb)
    };
    let error = Trainer::builder(config()).build(&vb, twice).err().expect("an error").to_string();
    let start = "parameter trunk.weight: expected one layer to ask for it, got a second";
    assert!(error.contains(start), "{error}");
}

#[test]
fn built_and_given_models_train_bit_identically() -> Result<(), Error> {
    let parameters = Parameters::seeded(3);
    let vb = parameters.builder(DType::F32, &Device::Cpu);
    let mut built = Trainer::builder(recipe()).build(&vb, |vb| two_layers(&vb))?;
    built.run(&Line, &mut Vec::new())?;
    let parameters = Parameters::seeded(3);
    let model = two_layers(&parameters.builder(DType::F32, &Device::Cpu))?;
    let mut given = Trainer::new(recipe(), model, parameters.sorted(), 2)?;
    given.run(&Line, &mut Vec::new())?;
    for ((name, built), (_, given)) in built.weights().iter().zip(given.weights()) {
        let [built, given] = [built, given].map(|var| var.flatten_all()?.to_vec1::<f32>());
        assert_eq!(built?, given?, "{name}");
    }
    Ok(())
}

#[test]
fn nothing_to_train_is_an_error() -> Result<(), Error> {
    let forward = |xs: &Tensor, _: Mode| Ok(xs.clone());
    let message = |trainer: Result<Trainer, Error>| trainer.err().expect("an error").to_string();
    let none = message(Trainer::new(config(), forward, Vec::new(), 1));
    assert!(none.starts_with("expected at least one parameter to train, got none"), "{none}");
    let parameters = Parameters::seeded(1);
    let vb = || parameters.builder(DType::F32, &Device::Cpu);
    let frozen = Trainer::builder(config()).groups(|_, _| Group::frozen());
    let frozen = message(frozen.build(&vb(), |vb| two_layers(&vb)));
    assert_eq!(frozen, "expected at least one parameter to train, got 2, all of them frozen");
    let constants = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let constant = message(Trainer::builder(config()).build(&constants, |vb| two_layers(&vb)));
    assert!(constant.contains("parameter trunk.weight: expected a variable"), "{constant}");
    let out_of_range = Trainer::builder(config()).groups(|_, _| Group::new().with_lr_scale(-1.0));
    let out_of_range = message(out_of_range.build(&vb(), |vb| two_layers(&vb)));
    assert_eq!(out_of_range, "expected lr_scale of a group of at least 0, got -1");
    Ok(())
}

/// Halves the rate after step 4, requests evaluations, and records their results.
#[derive(Default)]
struct Steering {
    evaluations: Vec<(u64, f64)>,
    records: Vec<Record>,
    state: Option<TrainState>,
}

impl Observer for Steering {
    type Error = Error;
    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<(), Error> {
        if step.step() == 4 {
            step.set_lr_scale(0.5);
        }
        if matches!(step.step(), 5 | 12) {
            step.evaluate();
        }
        Ok(())
    }
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.records.push(record.clone());
        Ok(())
    }
    fn wants_outputs(&self) -> bool {
        true
    }
    fn evaluated(&mut self, evaluated: &Evaluated<'_>) -> Result<(), Error> {
        let (test, weight) = (evaluated.test, &evaluated.weights[0].1);
        let mut samples = 0;
        for (outputs, targets) in &test.outputs {
            let batch = line(&(samples..samples + targets[0].dim(0)? as u32).collect::<Vec<_>>())?;
            samples += targets[0].dim(0)? as u32;
            let want = vit_ops::linear(&batch.inputs, &weight.as_detached_tensor(), None)?;
            assert_eq!(outputs.to_vec2::<f32>()?, want.to_vec2::<f32>()?);
        }
        assert_eq!(samples, 33);
        self.evaluations.push((evaluated.step, test.loss()));
        Ok(())
    }
    fn checkpoint(
        &mut self,
        at: Checkpoint,
        state: &mut dyn FnMut() -> Result<TrainState, Error>,
    ) -> Result<(), Error> {
        if at.step() == 8 {
            self.state = Some(state()?);
        }
        Ok(())
    }
}

#[test]
fn an_observer_sets_the_rate_and_evaluates_the_average_when_it_asks() -> Result<(), Error> {
    let config = TrainConfig { log_every: 1, evaluate_every: 3, ema: Some(0.9), ..config() };
    let trainer = || {
        let weight = Var::new(&[[0.1_f32], [-0.2]], &Device::Cpu)?;
        let tracked = weight.as_tensor().clone();
        let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
        Trainer::new(config.clone(), forward, vec![("w".to_owned(), weight)], 2)
    };
    let mut whole = Steering::default();
    trainer()?.run(&Line, &mut whole)?;
    // Epochs of six steps: requested in the middle of the first and at the end of the second, and the last.
    let steps: Vec<u64> = whole.evaluations.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [5, 12, 18]);
    let mut tested = Vec::new();
    for record in &whole.records {
        match record {
            Record::Step(step) => assert_eq!(step.lr, if step.step > 4 { 0.05 } else { 0.1 }),
            Record::Epoch(epoch) => tested.push(epoch.test_loss),
            Record::Other => {}
        }
    }
    assert_eq!(tested, [None, Some(whole.evaluations[1].1), Some(whole.evaluations[2].1)]);
    // A resumed run keeps the rate that was set.
    let state = whole.state.expect("eight steps were taken");
    assert_eq!(state.progress.lr_scale, 0.5);
    let mut rest = Steering::default();
    let mut resumed = trainer()?;
    resumed.resume(&state)?;
    resumed.run(&Line, &mut rest)?;
    assert_eq!(rest.evaluations, whole.evaluations[1..]);
    Ok(())
}

/// Squared error.
struct Squares;

impl Loss for Squares {
    fn sum(&self, outputs: &Tensor, targets: &[Tensor]) -> TensorResult<Tensor> {
        (outputs - &targets[0])?.sqr()?.sum_all()
    }
}

/// Numbers, and three times each as the target.
struct Regression;

impl Data for Regression {
    fn order(&self, epoch: u64) -> Vec<u32> {
        Line.order(epoch)
    }
    fn train_batch(&self, _epoch: u64, indices: &[u32]) -> TensorResult<Batch> {
        let xs = line(indices)?.inputs;
        Ok(Batch::new(xs.clone(), (xs * 3.0)?))
    }
    fn test_len(&self) -> usize {
        20
    }
    fn test_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        self.train_batch(1, indices)
    }
}

#[test]
fn custom_targets_and_losses_train() -> Result<(), Error> {
    let weight = Var::new(&[[0.0_f32]], &Device::Cpu)?;
    let tracked = weight.as_tensor().clone();
    let forward = move |xs: &Tensor, _: Mode| vit_ops::linear(xs, &tracked, None);
    let config = TrainConfig { epochs: 30, ..config() };
    let mut records = KeepAll::default();
    let parameters = vec![("w".to_owned(), weight.clone())];
    Trainer::builder(config)
        .loss(Squares)
        .model(forward, parameters)?
        .run(&Regression, &mut records)?;
    let weight = weight.flatten_all()?.to_vec1::<f32>()?[0];
    assert!((weight - 3.0).abs() < 0.01, "{weight}");
    let Some(Record::Epoch(last)) = records.0.last() else { panic!("no epoch at the end") };
    assert!(last.test_loss < Some(1e-4) && last.test_accuracy == Some(0.0), "{last:?}");
    Ok(())
}

#[derive(Default)]
struct KeepAll(Vec<Record>);

impl Observer for KeepAll {
    type Error = Error;
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.0.push(record.clone());
        Ok(())
    }
}
