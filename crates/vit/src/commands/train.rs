//! `vit train`: settings, dataset, model and trainer, put together.

mod bars;
mod images;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use vit_files::write_atomically;
use vit_layers::{Mode, Parameters};
use vit_model::{Layout, ModelFile, Summary, Tensors, VisionTransformer, VitConfig};
use vit_report::EventFile;
use vit_train::{
    EpochMetrics, Forward, MetricsFile, Observer, Progress, Record, RunFolder, Trainer,
};

use self::bars::Bars;
use self::images::Images;
use crate::chrome_trace::ChromeTrace;
use crate::cli::{self, SaveEvery};
use crate::dataset::{self, Found};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt;
use crate::output::{self, percent, thousands};
use crate::report;
use crate::saved_model::SavedModel;
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
    images.check(&settings)?;

    let parameters = Parameters::seeded(settings.train.seed);
    let threads = super::threads_on(&device, args.threads);
    let mut trainer = trainer(&settings, &parameters, &device, threads)?;
    if let Some(path) = &settings.init {
        initialise(&parameters, path, &settings.model)?;
    }

    let trace = args.trace.as_deref().map(ChromeTrace::begin).transpose()?;
    interrupt::training_begins();
    let folder = make_folder(args.run_dir.as_deref(), &settings)?;
    write_atomically(&folder.config(), settings.to_toml().as_bytes())?;
    let environment = report::environment::of_this_machine(&device, threads);
    write_environment(&folder, &environment)?;
    tracing::info!(
        "training {} ({} parameters) on {found}, {}, in {}",
        settings.preset,
        thousands(Summary::of(&settings.model)?.parameters() as u64),
        if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") },
        folder.path().display()
    );
    let mut run = Run {
        metrics: MetricsFile::create(&folder.metrics())?,
        events: events(args, &folder)?,
        folder: &folder,
        kept: trainer.kept(),
        settings: &settings,
        save_every: args.save_every,
        saved: Instant::now(),
        last_epoch: None,
        best_epoch: None,
        trace,
        bars: Bars::new(settings.train.epochs, settings.train.samples_of_step()),
    };
    let trained = trainer.run(&images, &mut run);
    trained.map_err(|failure| failure.at_batch_size(settings.train.batch_size))?;
    run.bars.doing("writing the report");
    run.save()?;
    vit_report::write_plots(folder.path())?;
    vit_report::write_csv(folder.path())?;
    write_report(&folder, &found, report::environment::rows(&environment), (&device, threads))?;
    let Run { last_epoch, best_epoch, trace, bars, .. } = run;
    drop(bars);
    if let Some(trace) = trace {
        trace.finish()?;
    }
    if let Some(warning) = found.warning() {
        tracing::warn!("{warning}");
    }
    if interrupt::asked() {
        tracing::warn!("interrupted; the model so far is in {}", folder.path().display());
        return Ok(Exit::Interrupted.into());
    }
    if let Some(epoch) = last_epoch {
        print_result(args, &settings, &found, &folder, &epoch, best_epoch.as_ref())?;
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

/// What is done with a run as it goes: metrics and model are written, epochs are told of, Ctrl-C is heard.
struct Run<'a> {
    folder: &'a RunFolder,
    metrics: MetricsFile,
    /// The same for TensorBoard, where it is asked for.
    events: Option<EventFile>,
    kept: vit_train::Parameters,
    settings: &'a Settings,
    save_every: Option<SaveEvery>,
    saved: Instant,
    last_epoch: Option<EpochMetrics>,
    /// On the images held out.
    best_epoch: Option<EpochMetrics>,
    trace: Option<ChromeTrace>,
    bars: Bars,
}

impl Run<'_> {
    fn save(&mut self) -> Result<()> {
        self.write(&self.folder.model())?;
        self.saved = Instant::now();
        Ok(())
    }

    fn write(&self, path: &Path) -> Result<()> {
        let tensors: Tensors =
            self.kept.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        Ok(vit_model::write(path, &tensors, &self.settings.model)?)
    }
}

impl Observer for Run<'_> {
    type Error = Failure;

    fn record(&mut self, record: &Record) -> Result<()> {
        self.metrics.append(record)?;
        if let Some(events) = &mut self.events {
            events.append(&serde_json::to_value(record).expect("a record is plain data"))?;
        }
        match record {
            Record::Step(step) => {
                tracing::debug!("step {}: loss {:.4}", step.step, step.loss);
            }
            Record::Epoch(epoch) => {
                let validated = epoch.val_loss.zip(epoch.val_accuracy).map(|(loss, accuracy)| {
                    format!("; validation loss {loss:.4}, {}", percent(accuracy))
                });
                tracing::info!(
                    "epoch {}/{}: loss {:.4}, {}{}; test loss {:.4}, {}; {} images/s",
                    epoch.epoch,
                    self.settings.train.epochs,
                    epoch.train_loss,
                    percent(epoch.train_accuracy),
                    validated.unwrap_or_default(),
                    epoch.test_loss,
                    percent(epoch.test_accuracy),
                    thousands(epoch.images_per_second as u64)
                );
                if let Some(trace) = &mut self.trace {
                    trace.write_when_over()?;
                }
                self.last_epoch = Some(epoch.clone());
            }
        }
        Ok(())
    }

    fn progress(&mut self, progress: &Progress) {
        self.bars.step(progress);
    }

    fn evaluating(&mut self) {
        self.bars.doing("testing");
    }

    fn best(&mut self, epoch: &EpochMetrics) -> Result<()> {
        self.best_epoch = Some(epoch.clone());
        self.write(&self.folder.best())
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

fn events(args: &cli::Train, folder: &RunFolder) -> Result<Option<EventFile>> {
    let create = || EventFile::create(&folder.path().join("tensorboard"));
    Ok(args.tensorboard.then(create).transpose()?)
}

/// Beside the settings: what does not set the numbers, but is asked when they differ.
fn write_environment(folder: &RunFolder, environment: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_string_pretty(environment).expect("an environment is plain data");
    Ok(write_atomically(&folder.path().join("env.json"), format!("{text}\n").as_bytes())?)
}

/// The page of the run, from what it has left in its folder.
fn write_report(
    folder: &RunFolder,
    found: &Found,
    environment: Vec<(String, String)>,
    (device, threads): (&Device, usize),
) -> Result<()> {
    let saved = SavedModel::open(folder.path())?;
    let mut report = report::look_at(&saved, found, device, threads)?;
    report.environment = environment;
    if interrupt::asked() {
        report.notes.insert(0, "The run was interrupted: this is what it had come to.".to_owned());
    }
    vit_report::write_report(folder.path(), &report)?;
    Ok(())
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
    let file = ModelFile::open(path)?;
    let layout = Layout::recognise(file.infos().keys()).map_err(about)?;
    let values = layout.import_file(&file, config).map_err(about)?;
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
    best: Option<&EpochMetrics>,
) -> Result<()> {
    if args.json {
        let mut result = json!({
            "run": folder.path(),
            "preset": settings.preset,
            "dataset": found.dataset.name(),
            "epoch": epoch.epoch,
            "step": epoch.step,
            "train_loss": epoch.train_loss,
            "train_accuracy": epoch.train_accuracy,
            "test_loss": epoch.test_loss,
            "test_accuracy": epoch.test_accuracy,
        });
        if let Some(best) = best {
            result["val_loss"] = epoch.val_loss.into();
            result["val_accuracy"] = epoch.val_accuracy.into();
            result["best_epoch"] = best.epoch.into();
            result["best_val_accuracy"] = best.val_accuracy.into();
            result["best_test_accuracy"] = best.test_accuracy.into();
        }
        return Ok(output::json(&result)?);
    }
    output::line(format!("dataset         {found}"))?;
    output::line(format!("train accuracy  {}", percent(epoch.train_accuracy)))?;
    if let Some(accuracy) = epoch.val_accuracy {
        output::line(format!("val accuracy    {}", percent(accuracy)))?;
    }
    output::line(format!("test accuracy   {}", percent(epoch.test_accuracy)))?;
    if let Some((best, accuracy)) = best.and_then(|best| Some((best, best.val_accuracy?))) {
        output::line(format!(
            "best epoch      {}: val {}, test {}, in {}",
            best.epoch,
            percent(accuracy),
            percent(best.test_accuracy),
            folder.best().display()
        ))?;
    }
    Ok(output::line(format!("run folder      {}", folder.path().display()))?)
}
