//! `vit train`: settings, dataset, model and trainer, put together.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde_json::json;
use vit_data::{Augment, Examples, Order, Split};
use vit_files::write_atomically;
use vit_layers::{Mode, Parameters};
use vit_model::{Layout, Summary, Tensors, VisionTransformer, VitConfig};
use vit_train::{
    Batch, Data, EpochMetrics, Forward, MetricsFile, Observer, Record, RunFolder, Trainer,
};

use crate::cli::{self, SaveEvery};
use crate::dataset::{self, Found};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt;
use crate::output::{self, percent, thousands};
use crate::settings::Settings;

pub(super) fn run(args: &cli::Train) -> Result<ExitCode> {
    let mut settings = Settings::resolve(args)?;
    let device = args.device.open()?;
    refuse_existing(args.run_dir.as_deref())?;
    let found = match &settings.dataset {
        Some(name) => dataset::named(name, &args.data.place)?,
        None => dataset::any(&args.data.place)?,
    };
    super::eval::check_fit(&found.dataset, &settings.model)?;
    settings.dataset = Some(found.dataset.name().to_owned());
    let images = Images::new(&found, &settings, device.clone());
    images.check_batch(settings.train.samples_of_step())?;

    let parameters = Parameters::seeded(settings.train.seed);
    let threads = super::threads(args.threads);
    let mut trainer = trainer(&settings, &parameters, &device, threads)?;
    if let Some(path) = &settings.init {
        initialise(&parameters, path, &settings.model)?;
    }

    interrupt::training_begins();
    let folder = make_folder(args.run_dir.as_deref(), &settings)?;
    write_atomically(&folder.config(), settings.to_toml().as_bytes())?;
    tracing::info!(
        "training {} ({} parameters) on {found}, {}, in {}",
        settings.preset,
        thousands(Summary::of(&settings.model)?.parameters() as u64),
        if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") },
        folder.path().display()
    );
    let mut run = Run {
        metrics: MetricsFile::create(&folder.metrics())?,
        folder: &folder,
        kept: trainer.kept(),
        settings: &settings,
        save_every: args.save_every,
        saved: Instant::now(),
        last_epoch: None,
    };
    trainer.run(&images, &mut run)?;
    run.save()?;
    vit_report::write_plots(folder.path())?;
    let last_epoch = run.last_epoch.take();
    if let Some(warning) = found.warning() {
        tracing::warn!("{warning}");
    }
    if interrupt::asked() {
        tracing::warn!("interrupted; the model so far is in {}", folder.path().display());
        return Ok(Exit::Interrupted.into());
    }
    if let Some(epoch) = last_epoch {
        print_result(args, &settings, &found, &folder, &epoch)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Those of a model's parameters that are matrices by their shape alone, and stay where they are drawn.
const NO_DECAY: [&str; 3] = ["cls_token", "pos_embed", "reg_token"];

/// A trainer of a new model, whose variables are made in `parameters`.
///
/// # Errors
/// If the settings are out of range, or the threads cannot be started.
pub(super) fn trainer(
    settings: &Settings,
    parameters: &Parameters,
    device: &Device,
    threads: usize,
) -> Result<Trainer<impl Forward + use<>>> {
    let trained = VisionTransformer::new(&settings.model, &parameters.builder(DType::F32, device))?;
    let evaluated =
        VisionTransformer::new(&settings.model, &parameters.detached_builder(DType::F32, device))?;
    let forward = move |images: &Tensor, mode: Mode| match mode {
        Mode::Eval => evaluated.forward(images, mode),
        Mode::Train(_) => trained.forward(images, mode),
    };
    let trainer = Trainer::new(settings.train.clone(), forward, parameters.sorted(), threads)?;
    Ok(trainer.sparing(&NO_DECAY)?)
}

/// The dataset as the trainer sees it.
struct Images {
    train: Examples,
    test: Examples,
    order: Order,
    augment: Augment,
    seed: u64,
    device: Device,
}

impl Images {
    fn new(found: &Found, settings: &Settings, device: Device) -> Self {
        let shuffled = Order::Shuffled { seed: settings.train.seed };
        Self {
            train: found.dataset.split(Split::Train),
            test: found.dataset.split(Split::Test),
            order: if settings.shuffle { shuffled } else { Order::InOrder },
            augment: settings.augment,
            seed: settings.train.seed,
            device,
        }
    }

    /// Before a folder is made: the trainer would refuse the same, and leave it behind.
    fn check_batch(&self, batch_size: usize) -> Result<()> {
        let samples = self.train.len();
        if samples < batch_size {
            return Err(vit_train::Error::NoBatch { batch_size, samples }.into());
        }
        Ok(())
    }

    fn batch(&self, examples: &Examples, indices: &[u32]) -> candle_core::Result<Batch> {
        let (images, labels) = examples.batch(indices, &self.device, DType::F32)?;
        Ok(Batch { images, labels })
    }
}

impl Data for Images {
    fn order(&self, epoch: u64) -> Vec<u32> {
        self.order.epoch(self.train.len(), epoch)
    }

    fn train_batch(&self, epoch: u64, indices: &[u32]) -> candle_core::Result<Batch> {
        let at = (self.seed, epoch);
        let batch =
            self.train.augmented_batch(indices, &self.augment, at, &self.device, DType::F32);
        let (images, labels) = batch?;
        Ok(Batch { images, labels })
    }

    fn test_len(&self) -> usize {
        self.test.len()
    }

    fn test_batch(&self, indices: &[u32]) -> candle_core::Result<Batch> {
        self.batch(&self.test, indices)
    }
}

/// What is done with a run as it goes: metrics and model are written, epochs are told of, Ctrl-C is heard.
struct Run<'a> {
    folder: &'a RunFolder,
    metrics: MetricsFile,
    kept: vit_train::Parameters,
    settings: &'a Settings,
    save_every: Option<SaveEvery>,
    saved: Instant,
    last_epoch: Option<EpochMetrics>,
}

impl Run<'_> {
    fn save(&mut self) -> Result<()> {
        let tensors: Tensors =
            self.kept.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        vit_model::write(&self.folder.model(), &tensors, &self.settings.model)?;
        self.saved = Instant::now();
        Ok(())
    }
}

impl Observer for Run<'_> {
    type Error = Failure;

    fn record(&mut self, record: &Record) -> Result<()> {
        self.metrics.append(record)?;
        match record {
            Record::Step(step) => {
                tracing::debug!("step {}: loss {:.4}", step.step, step.loss);
            }
            Record::Epoch(epoch) => {
                tracing::info!(
                    "epoch {}/{}: loss {:.4}, {}; test loss {:.4}, {}; {} images/s",
                    epoch.epoch,
                    self.settings.train.epochs,
                    epoch.train_loss,
                    percent(epoch.train_accuracy),
                    epoch.test_loss,
                    percent(epoch.test_accuracy),
                    thousands(epoch.images_per_second as u64)
                );
                self.last_epoch = Some(epoch.clone());
            }
        }
        Ok(())
    }

    fn after_step(&mut self, step: u64) -> Result<ControlFlow<()>> {
        let due = match self.save_every {
            None => false,
            Some(SaveEvery::Steps(steps)) => step.is_multiple_of(steps),
            Some(SaveEvery::Seconds(seconds)) => self.saved.elapsed().as_secs() >= seconds,
        };
        if due {
            self.save()?;
        }
        Ok(if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// Before anything is fetched or read: nothing is lost by saying so at once.
fn refuse_existing(run_dir: Option<&Path>) -> Result<()> {
    match run_dir {
        Some(path) if fs::symlink_metadata(path).is_ok() => {
            Err(vit_train::Error::RunFolderExists { path: path.to_owned() }.into())
        }
        _ => Ok(()),
    }
}

fn make_folder(run_dir: Option<&Path>, settings: &Settings) -> Result<RunFolder> {
    if let Some(path) = run_dir {
        return Ok(RunFolder::create(path)?);
    }
    let dataset = settings.dataset.as_deref().map(Path::new).and_then(Path::file_name);
    let dataset = dataset.map_or("data".into(), |name| name.to_string_lossy());
    Ok(RunFolder::create_numbered(Path::new("runs"), &format!("{dataset}-{}", settings.preset))?)
}

/// Gives the parameters the values of a file, of whatever layout.
fn initialise(parameters: &Parameters, path: &Path, config: &VitConfig) -> Result<()> {
    let about = |error: vit_model::Error| Failure::from(error).about(path.display());
    let file = vit_model::read(path)?;
    let layout = Layout::recognise(&file.tensors).map_err(about)?;
    let values = layout.import(&file.tensors, config).map_err(about)?;
    for (name, var) in parameters.sorted() {
        var.set(&values[&name].to_dtype(var.dtype())?.to_device(var.device())?)?;
    }
    tracing::info!("began with {} ({layout} layout)", path.display());
    Ok(())
}

fn print_result(
    args: &cli::Train,
    settings: &Settings,
    found: &Found,
    folder: &RunFolder,
    epoch: &EpochMetrics,
) -> Result<()> {
    if args.json {
        return Ok(output::json(&json!({
            "run": folder.path(),
            "preset": settings.preset,
            "dataset": found.dataset.name(),
            "epoch": epoch.epoch,
            "step": epoch.step,
            "train_loss": epoch.train_loss,
            "train_accuracy": epoch.train_accuracy,
            "test_loss": epoch.test_loss,
            "test_accuracy": epoch.test_accuracy,
        }))?);
    }
    output::line(format!("dataset         {found}"))?;
    output::line(format!("train accuracy  {}", percent(epoch.train_accuracy)))?;
    output::line(format!("test accuracy   {}", percent(epoch.test_accuracy)))?;
    Ok(output::line(format!("run folder      {}", folder.path().display()))?)
}
