//! `vit train`: puts settings, dataset, model and trainer together.

mod args;
mod augmentation;
mod bars;
mod diverged;
mod environment;
mod finetuning;
mod images;
mod init;
mod live;
mod observer;
mod pictures;
mod recipe;
mod result;
mod resume;
mod saver;
mod set_up;
mod table;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};
use toml::Table;
use vit_model::Summary;
use vit_report::EventFile;
use vit_run::{
    CONFIG, ENVIRONMENT, EVENTS, Environment, MetricsFile, MetricsMark, RunFolder, SKIPPED,
    read_records,
};
use vit_train::{Observer, Trainer};

pub(super) use self::args::Args;
pub(crate) use self::args::without_settings_beside_resume;
pub(super) use self::images::batch_of;
pub(super) use self::observer::{BEST, BITS, digest};
pub(super) use self::resume::{check_dataset, check_settings, most_bytes, run_of};
pub(crate) use self::set_up::SetUp;
pub(super) use self::set_up::{trainer, with_dataset};

use self::bars::Bars;
use self::images::Images;
use self::live::Live;
use self::observer::{Run, as_json};
use self::resume::Resumed;
use self::saver::Saver;
use self::table::Table as EpochTable;
use super::serve;
use crate::chrome_trace::ChromeTrace;
use crate::dataset::{self, Found};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt;
use crate::output::thousands;
use crate::outputs::{self, Inputs, Output};
use crate::ranks::Ranks;
use crate::report;
use crate::saved_model::SavedModel;
use crate::settings::{Asked, Settings};
use crate::terminal::quoted;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let ranks = Ranks::join()?;
    let done = match &args.resume {
        Some(folder) if ranks.is_first() => resume(args, folder, &ranks),
        Some(_) => follow_resumed(args, &ranks),
        None => begin(args, &ranks),
    };
    let code = done?;
    ranks.leave();
    Ok(code)
}

fn begin(args: &Args, ranks: &Ranks) -> Result<ExitCode> {
    let (settings, asked) = args.resolve()?;
    let device = ranks.device(args.device)?;
    ranks.agree(&ranks_table(&settings))?;
    let (mut trace, mut listener) = (None, None);
    if ranks.is_first() {
        refuse_existing(args.run_dir.as_deref())?;
        listener = args.serve.map(|listen| serve::bind(listen, &args.access)).transpose()?;
        trace = trace_of(args, &settings)?;
    }
    let set_up = || {
        let (place, on) = (&args.data.place, (args.threads, ranks));
        SetUp::new((settings, asked), place, device, on, &|_| Ok(()))
    };
    let set_up = ranks.one_first_on_each_node(set_up)?;
    set_up.initialise()?;
    set_up.agree(ranks)?;
    if !ranks.is_first() {
        return follow(set_up, ranks);
    }
    warn_of_warmup(&set_up);
    let trace = trace.map(ChromeTrace::begin).transpose()?;
    interrupt::training_begins();
    let environment = environment::of_this_machine(&set_up);
    let make = || make_folder(args.run_dir.as_deref(), &set_up.settings, &environment);
    let folder = interrupt::writing(make)?;
    write_skipped(&folder, &set_up.found)?;
    let metrics = MetricsFile::open_at(&folder.metrics(), &MetricsMark::default())?;
    let create = || EventFile::create(&events_folder(&folder));
    let events = args.tensorboard.then(|| interrupt::writing(create));
    let about = about(&environment);
    let events = events.transpose()?;
    let begun = Begun { environment, metrics, events, about, trace, listener };
    train(args, set_up, ranks, folder, begun)
}

fn resume(args: &Args, path: &Path, ranks: &Ranks) -> Result<ExitCode> {
    let path = resume::run_of(path)?;
    let settings = Settings::of_run(&path)?;
    let trace = trace_of(args, &settings)?;
    let folder = RunFolder::open(&path)?;
    let device = ranks.device(args.device)?;
    let listener = args.serve.map(|listen| serve::bind(listen, &args.access)).transpose()?;
    let mut resumed = Resumed::find(&folder, &settings)?;
    let steps = resumed.steps();
    let before = settings.clone();
    let settings = args.resume(&settings, steps)?;
    let is_changed = settings != before;
    let check = |found: &Found| match &resumed.checkpoint {
        Some((_, saved)) => resume::check_dataset(saved, &found.digest()),
        None => Ok(()),
    };
    if ranks.are_several() {
        ranks.broadcast_text(&settings.to_toml());
        ranks.agree(&ranks_table(&settings))?;
    }
    let set_up = || {
        let (place, on) = (&args.data.place, (args.threads, ranks));
        SetUp::new((settings, Asked::all()), place, device, on, &check)
    };
    let mut set_up = ranks.one_first_on_each_node(set_up)?;
    let state = resumed.checkpoint.as_ref().map(|(_, saved)| &saved.state);
    set_up.go_on_from(state, ranks)?;
    if is_changed && last_step(&set_up) <= steps {
        let message = format!("{} is complete: it has taken all {steps} steps", path.display());
        return Err(
            Failure::new(Exit::Usage, message).hint("pass a larger --epochs or --max-steps")
        );
    }
    // All checks have passed; from here on the directory changes.
    let metrics = resumed.repair(&folder)?;
    if is_changed {
        let text = set_up.settings.to_toml();
        interrupt::writing(|| {
            vit_files::write_atomically(&folder.path().join(CONFIG), text.as_bytes())
        })?;
    }
    let environment = resume::environment(&folder, &set_up)?;
    let about = match resumed.checkpoint {
        Some((checkpoint, mut saved)) => {
            if saved.about.insert(BITS.0.to_owned(), BITS.1.into()) != Some(BITS.1.into()) {
                tracing::warn!(
                    "{} was written by a vit that computes other bits: the result will differ from an uninterrupted run's",
                    checkpoint.display()
                );
            }
            // What follows a checkpoint may be missing.
            let (weights, model) = (saved.state.weights(), &set_up.settings.model);
            vit_model::write_with(&folder.model(), weights, model, &set_up.info)?;
            folder.point_last_to(&checkpoint)?;
            tracing::info!("resuming from {}", checkpoint.display());
            saved.about
        }
        None => {
            tracing::info!("{} has no checkpoint yet: starting again", path.display());
            about(&environment)
        }
    };
    let trace = trace.map(ChromeTrace::begin).transpose()?;
    interrupt::training_begins();
    let events = events_folder(&folder);
    let events = (args.tensorboard || events.exists())
        .then(|| interrupt::writing(|| written_again(&events, &folder)));
    let events = events.transpose()?;
    let begun = Begun { environment, metrics, events, about, trace, listener };
    train(args, set_up, ranks, folder, begun)
}

/// Resuming on ranks other than 0: rank 0 reads the run and sends it to the others.
fn follow_resumed(args: &Args, ranks: &Ranks) -> Result<ExitCode> {
    let device = ranks.device(args.device)?;
    let settings = Settings::of_text(&ranks.broadcast_text(""))?;
    ranks.agree(&ranks_table(&settings))?;
    let set_up = || {
        let (place, on) = (&args.data.place, (args.threads, ranks));
        SetUp::new((settings, Asked::all()), place, device, on, &|_| Ok(()))
    };
    let mut set_up = ranks.one_first_on_each_node(set_up)?;
    set_up.go_on_from(None, ranks)?;
    follow(set_up, ranks)
}

/// Trains on a rank other than 0, writing nothing.
fn follow(mut set_up: SetUp, ranks: &Ranks) -> Result<ExitCode> {
    interrupt::training_begins();
    set_up.cache_features()?;
    let SetUp { trainer, images, settings, .. } = &mut set_up;
    in_phases(trainer, images, (&*settings, ranks), &mut Follower)?;
    Ok(ExitCode::SUCCESS)
}

/// Settings that all ranks must share, compared before data are loaded.
fn ranks_table(settings: &Settings) -> Table {
    let program = [
        ("vit", env!("CARGO_PKG_VERSION")),
        ("commit", option_env!("VIT_COMMIT").unwrap_or("unknown")),
        ("instructions", vit_ops::instruction_set()),
    ];
    let program = program.map(|(name, value)| (name.to_owned(), value.to_owned().into()));
    program.into_iter().chain(settings.to_table()).collect()
}

/// Rewrites TensorBoard's events from everything recorded.
fn written_again(events: &Path, folder: &RunFolder) -> Result<EventFile> {
    let mut events = EventFile::replace(events)?;
    let mut written = Ok(());
    read_records(&folder.metrics(), |record| {
        if written.is_ok() {
            written = events.append(&as_json(&record));
        }
    })?;
    written?;
    Ok(events)
}

/// A run's state before its first step, or its first step after a resume.
struct Begun {
    environment: Environment,
    metrics: MetricsFile,
    events: Option<EventFile>,
    about: Map<String, Value>,
    trace: Option<ChromeTrace>,
    /// For the live server.
    listener: Option<TcpListener>,
}

/// Metadata for every checkpoint of this run.
fn about(environment: &Environment) -> Map<String, Value> {
    let facts = ["vit", "device", resume::DATASET].into_iter();
    let facts = facts.filter_map(|name| Some((name.to_owned(), environment.0.get(name)?.clone())));
    facts.chain([(BITS.0.to_owned(), BITS.1.into())]).collect()
}

fn train(
    args: &Args,
    mut set_up: SetUp,
    ranks: &Ranks,
    folder: RunFolder,
    begun: Begun,
) -> Result<ExitCode> {
    set_up.cache_features()?;
    let (settings, threads) = (&set_up.settings, set_up.threads);
    tracing::info!(
        "training {} ({} parameters) on {}, {}{}, in {}",
        settings.preset,
        thousands(Summary::of(&settings.model)?.parameters() as u64),
        set_up.found,
        ranks.told(),
        if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") },
        folder.path().display()
    );
    let folder = Arc::new(folder);
    let Begun { environment, metrics, events, about, trace, listener } = begun;
    let written = (settings, &set_up.info);
    let saver = Saver::new(Arc::clone(&folder), written, args.save_every, args.keep.into());
    let weights = set_up.trainer.weights().clone();
    let epochs = settings.after(u64::MAX).train.epochs;
    let bars = Bars::new(epochs, settings.train.samples_of_step());
    interrupt::trains_in(folder.path(), saver.what_saves_at_once());
    let live = listener
        .map(|listener| Live::begin((listener, &args.access), &folder, (settings, &set_up.info)));
    let so_far = report::so_far(settings, &set_up.found, &set_up.info, environment.rows())?;
    let mut run = Run {
        folder: &folder,
        settings,
        info: &set_up.info,
        table: EpochTable::new(epochs),
        change: None,
        weights,
        saver,
        metrics,
        events,
        about,
        trace,
        bars,
        so_far,
        shown: None,
        live: live.transpose()?,
        since: Instant::now(),
        is_slow: false,
        step: None,
        plan: None,
    };
    let trained = in_phases(&mut set_up.trainer, &mut set_up.images, (settings, ranks), &mut run);
    // A checkpoint being written is completed in any case.
    let saved = run.saver.finish();
    if let Err(failure) = trained {
        if let Err(unsaved) = saved {
            tracing::warn!("{}", unsaved.message());
        }
        let failure = failure.at_batch_size(set_up.settings.train.batch_size);
        let Some(divergence) = failure.divergence() else { return Err(failure) };
        let write = || diverged::write(&folder, divergence, &set_up);
        let written = interrupt::writing(write)?.display().to_string();
        let resume = format!("`vit train --resume {}`", quoted(folder.path()));
        return Err(failure.hint(format!(
            "try a smaller --lr; {written} lists the images of that step, and {resume} repeats it"
        )));
    }
    saved?;
    interrupt::is_safe();
    if interrupt::asked() {
        interrupt::tell();
    }
    // Before the report, in case the program is ended before it.
    let traced = run.trace.take().map(|trace| interrupt::writing(|| trace.finish()));
    run.bars.doing("writing the report");
    interrupt::writing(|| {
        vit_report::write_plots(folder.path())?;
        vit_report::write_csv(folder.path())
    })?;
    write_report(&folder, &set_up, environment.rows())?;
    drop(run);
    traced.transpose()?;
    let warn = || {
        if let Some(warning) = set_up.found.warning() {
            tracing::warn!("{warning}");
        }
    };
    if interrupt::asked() {
        warn();
        interrupt::tell();
        return Ok(Exit::Interrupted.into());
    }
    result::print(args.json, &set_up.settings, &set_up.found, &folder)?;
    result::tell_next(&folder);
    warn();
    Ok(ExitCode::SUCCESS)
}

/// Follows a run whose settings change at certain steps.
trait Phases: Observer<Error = Failure> {
    /// Called when a phase begins; after step `change` settings change, unless the run ends earlier.
    fn begin(&mut self, change: Option<u64>);

    /// Called when a phase has ended and the run continues.
    fn end(&mut self) -> Result<()>;
}

impl Phases for Run<'_> {
    fn begin(&mut self, change: Option<u64>) {
        self.change = change;
    }

    fn end(&mut self) -> Result<()> {
        self.saver.finish()?;
        interrupt::is_unsafe();
        Ok(())
    }
}

/// A rank other than 0.
struct Follower;

impl Phases for Follower {
    fn begin(&mut self, _change: Option<u64>) {}

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Observer for Follower {
    type Error = Failure;

    fn ending(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        Box::new(interrupt::asked)
    }
}

/// Trains in phases, each with its own settings.
fn in_phases(
    trainer: &mut Trainer,
    images: &mut Images,
    (settings, ranks): (&Settings, &Ranks),
    run: &mut impl Phases,
) -> Result<()> {
    loop {
        let step = trainer.step();
        let phase = settings.after(step);
        trainer.change(&phase.train)?;
        images.set_augment(phase.augment);
        let next = settings.next_change(step);
        run.begin(next.filter(|&next| next < end_of(&phase, images)));
        trainer.run(images, run)?;
        if ranks.any(interrupt::asked()) {
            interrupt::ask();
            return Ok(());
        }
        if next.is_none_or(|next| trainer.step() < next) {
            return Ok(());
        }
        run.end()?;
    }
}

/// A warm-up that never ends is most likely a mistake.
fn warn_of_warmup(set_up: &SetUp) {
    let steps = last_step(set_up);
    if let Some(warmup) = set_up.settings.train.schedule.warmup.filter(|&warmup| warmup >= steps) {
        tracing::warn!(
            "the warm-up of {warmup} steps is longer than the run of {steps}: the learning rate never reaches --lr"
        );
    }
}

/// The step at which a run ends by itself.
fn end_of(settings: &Settings, images: &Images) -> u64 {
    let steps = settings.train.epochs.saturating_mul(images.steps_of_epoch(settings));
    settings.train.max_steps.map_or(steps, |last| last.min(steps))
}

/// Like [`end_of`], with all changes of settings.
fn last_step(set_up: &SetUp) -> u64 {
    end_of(&set_up.settings.after(u64::MAX), &set_up.images)
}

/// Checked before anything is downloaded or read.
fn refuse_existing(run_dir: Option<&Path>) -> Result<()> {
    match run_dir {
        Some(path) if fs::symlink_metadata(path).is_ok() => {
            Err(vit_run::Error::Exists { path: path.to_owned() }.into())
        }
        Some(path) => outputs::check_outside_of_runs(path, "--run-dir"),
        None => Ok(()),
    }
}

/// The output of `--trace`, which must not be an input file.
fn trace_of(args: &Args, settings: &Settings) -> Result<Option<Output>> {
    let Some(path) = &args.trace else { return Ok(None) };
    let dataset = settings.dataset.as_deref().unwrap_or(vit_fetch::MNIST.name);
    let dataset = dataset::folder_of(dataset, &args.data.place);
    let files = [&args.settings.config, &settings.finetune.init, &dataset].into_iter().flatten();
    let inputs = Inputs::of(files.map(PathBuf::as_path));
    Output::new(path, &inputs, args.existing()).map(Some)
}

fn events_folder(folder: &RunFolder) -> std::path::PathBuf {
    folder.path().join(EVENTS)
}

/// Default folder of runs.
const RUNS: &str = "runs";

/// With settings, and information that does not affect the result but helps to explain differences.
fn make_folder(
    run_dir: Option<&Path>,
    settings: &Settings,
    environment: &Environment,
) -> Result<RunFolder> {
    let settings_text = settings.to_toml();
    let environment = environment.to_text();
    let files = [(CONFIG, settings_text.as_bytes()), (ENVIRONMENT, environment.as_bytes())];
    if let Some(path) = run_dir {
        let folder = RunFolder::create(path, &files)?;
        if path.parent().is_some_and(|above| above.ends_with(RUNS)) {
            folder.be_last();
        }
        return Ok(folder);
    }
    let dataset = settings.dataset.as_deref().map(|name| {
        // Without the revision.
        let is_of_hub = vit_data::HubName::is_meant(name);
        name.rsplit_once('@').filter(|_| is_of_hub).map_or(name, |(name, _)| name)
    });
    let dataset = dataset.map(Path::new).and_then(Path::file_name);
    let dataset = dataset.map_or("data".into(), |name| name.to_string_lossy());
    let name = format!("{dataset}-{}", settings.preset);
    let folder = RunFolder::create_numbered(Path::new(RUNS), &name, &files)?;
    folder.be_last();
    Ok(folder)
}

/// Lists the skipped pictures, one a line.
fn write_skipped(folder: &RunFolder, found: &Found) -> Result<()> {
    if found.skipped.is_empty() {
        return Ok(());
    }
    let line = |(path, reason): &(PathBuf, String)| format!("{}: {reason}\n", path.display());
    let text: String = found.skipped.iter().map(line).collect();
    Ok(vit_files::write_atomically(&folder.path().join(SKIPPED), text.as_bytes())?)
}

/// Writes the run's report from the files in its directory.
fn write_report(
    folder: &RunFolder,
    set_up: &SetUp,
    environment: Vec<(String, String)>,
) -> Result<()> {
    let saved = SavedModel::open(folder.path())?;
    let mut report = report::look_at(&saved, &set_up.found, &set_up.device, set_up.threads)?;
    report.environment = environment;
    let changes = &set_up.settings.changes;
    report.notes.extend(changes.iter().map(ToString::to_string));
    report.changed_after = changes.iter().map(|change| change.from_step).collect();
    if interrupt::asked() {
        report.notes.insert(0, "The run was interrupted; this is its state so far.".to_owned());
    }
    interrupt::writing(|| vit_report::write_report(folder.path(), &report))?;
    Ok(())
}
