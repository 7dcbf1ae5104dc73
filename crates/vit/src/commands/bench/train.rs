//! `vit bench train`: times training steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Device;
use serde_json::json;
use vit_data::{Augment, Order, Split};
use vit_layers::Parameters;
use vit_model::Summary;
use vit_train::{AfterStep, Batch, Checkpoint, Data, Observer, Record};

use super::communication::Timed;
use super::images::{Images, NOISE};
use super::model;
use super::times::{Times, milliseconds, rate};
use crate::commands::train::trainer;
use crate::dataset::DataArgs;
use crate::failure::{Failure, Result};
use crate::output::{self, thousands};
use crate::ranks::Ranks;
use crate::settings::{Settings, SettingsArgs};
use crate::threads::threads;

/// Batches in an epoch of noise: enough that a step's batch is no longer in the nearest cache.
const BATCHES_OF_NOISE: usize = 16;

/// Times training steps, as in `vit train`; writes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = NOISE)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Batch size, at least 1 [default: the settings'; else 64]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Threads, 1 to 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Number of timed steps, at least 1
    #[arg(long, value_name = "N", default_value = "300", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,
    /// Number of untimed steps before them, at least 0
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) warmup: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let settings = settings(args)?;
    let ranks = Ranks::join()?;
    let batch_size = settings.train.batch_size;
    let noise = BATCHES_OF_NOISE.saturating_mul(batch_size);
    let images = Images::load(&args.data, Split::Train, noise, &settings.model)?;
    let name = model::name(&args.settings, &settings);
    let threads = threads(ranks.threads(args.threads));
    let parameters = Parameters::seeded(settings.train.seed);
    let timed = Arc::new(Timed::new(ranks.collective()));
    let on = (&Device::Cpu, threads, Arc::clone(&timed) as _);
    let mut trainer = trainer(&settings, &parameters, on)?;
    tracing::info!("timing {} steps of {name} on {}", args.steps, images.name);
    let data = TrainingAlone {
        images: &images,
        all: Order::InOrder.epoch(images.len(), 1),
        seed: settings.train.seed,
        augment: settings.augment,
    };
    let mut stopwatch = Stopwatch::new(args.warmup, timed);
    trainer.run(&data, &mut stopwatch)?;
    let (is_first, size) = (ranks.is_first(), ranks.collective().size());
    ranks.leave();
    if !is_first {
        return Ok(());
    }

    let times = Times::new(stopwatch.times);
    let communication = milliseconds(Times::new(stopwatch.communication).median());
    let images_per_second = rate(batch_size, times.median());
    let [median, p10, p90] = [times.median(), times.p10(), times.p90()].map(milliseconds);
    if args.json {
        return output::json(&json!({
            "workload": "train",
            "model": name,
            "parameters": Summary::of(&settings.model)?.parameters(),
            "images": images.name,
            "batch_size": batch_size,
            "ranks": size,
            "threads": threads,
            "communication_ms": communication,
            "steps": args.steps,
            "median_ms": median,
            "p10_ms": p10,
            "p90_ms": p90,
            "images_per_second": images_per_second,
        }));
    }
    output::line(format!("a step    {median:.3} ms, p10 {p10:.3}, p90 {p90:.3}"))?;
    output::line(format!("images/s  {}", thousands(images_per_second as u64)))?;
    if size > 1 {
        output::line(format!(
            "ranks     {size}, waiting for each other {communication:.3} ms of a step"
        ))?;
    }
    output::line(format!("threads   {threads}"))
}

/// Settings of a run that ends with the last timed step.
fn settings(args: &Args) -> Result<Settings> {
    let (mut settings, asked) = Settings::begin_explicitly(&args.settings, None)?;
    if let Some(batch_size) = args.batch_size {
        settings.set_batch_size(batch_size, asked);
    }
    settings.train.epochs = u64::MAX;
    settings.train.max_steps = Some(u64::from(args.warmup) + u64::from(args.steps));
    settings.check()?;
    Ok(settings)
}

/// Training images only, so epochs end without an evaluation.
struct TrainingAlone<'a> {
    images: &'a Images,
    /// Indices of all images.
    all: Vec<u32>,
    seed: u64,
    augment: Augment,
}

impl Data for TrainingAlone<'_> {
    fn order(&self, epoch: u64) -> Vec<u32> {
        Order::Shuffled { seed: self.seed }.epoch(self.images.len(), epoch)
    }

    fn train_batch(&self, epoch: u64, indices: &[u32]) -> candle_core::Result<Batch> {
        self.images.augmented_batch(indices, &self.all, &self.augment, (self.seed, epoch))
    }

    fn test_len(&self) -> usize {
        0
    }

    fn test_batch(&self, indices: &[u32]) -> candle_core::Result<Batch> {
        self.images.batch(indices)
    }
}

/// Times steps from end to end; leaves out the end of an epoch.
struct Stopwatch {
    warmup: u64,
    ranks: Arc<Timed>,
    begun: Instant,
    times: Vec<Duration>,
    communication: Vec<Duration>,
}

impl Stopwatch {
    fn new(warmup: u32, ranks: Arc<Timed>) -> Self {
        let (times, communication) = (Vec::new(), Vec::new());
        Self { warmup: warmup.into(), ranks, begun: Instant::now(), times, communication }
    }
}

impl Observer for Stopwatch {
    type Error = Failure;

    fn record(&mut self, record: &Record) -> Result<()> {
        if matches!(record, Record::Epoch(_)) {
            self.begun = Instant::now();
            self.ranks.take_spent();
        }
        Ok(())
    }

    fn wants_state(&mut self, _at: Checkpoint) -> bool {
        false
    }

    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<()> {
        let (now, communication) = (Instant::now(), self.ranks.take_spent());
        if step.step() > self.warmup {
            self.times.push(now - self.begun);
            self.communication.push(communication);
        }
        self.begun = now;
        Ok(())
    }
}
