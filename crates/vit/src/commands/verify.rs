//! `vit verify`: checks a run directory's files, and that repeating its first steps gives the same bits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;
use vit_files::{Digest, FileLock, open_file};
use vit_model::ModelFile;
use vit_run::{LOCK, METRICS, MODEL, newest_checkpoints, read_metrics};
use vit_train::{AfterStep, Best, Checkpoint, Observer, SavedState, TrainState};

use super::train::{BEST, BITS, SetUp, check_dataset, check_settings, digest, most_bytes, run_of};
use crate::args::path;
use crate::dataset::DataPlace;
use crate::dataset::Found;
use crate::device::Device;
use crate::failure::{Exit, Failure, Result};
use crate::ranks::Ranks;
use crate::settings::{Asked, Settings};
use crate::{device, output};

/// The result of checking one part of a run.
#[derive(Serialize)]
struct Finding {
    part: String,
    sound: bool,
    found: String,
}

impl Finding {
    fn of(part: impl Into<String>, found: Result<impl Into<String>>) -> Self {
        let (sound, found) = match found {
            Ok(found) => (true, found.into()),
            Err(failure) => (false, failure.message()),
        };
        Self { part: part.into(), sound, found }
    }
}

/// Verifies a run's files, and that repeating its first steps gives the same bits
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run directory
    #[arg(value_parser = path())]
    pub(crate) run: PathBuf,
    /// Only verify files; train nothing
    #[arg(long)]
    pub(crate) files_only: bool,
    #[command(flatten)]
    pub(crate) place: DataPlace,
    /// Threads, 1 to 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Device: cpu, cuda or cuda:N; auto is a usable GPU, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let run = &run_of(&args.run)?;
    let settings = Settings::of_run(run)?;
    let lock = run.join(LOCK);
    // No lock file, or a read-only directory, means that nobody is training there.
    if fs::symlink_metadata(&lock).is_ok() {
        match FileLock::try_acquire(&lock) {
            Ok(None) => return Err(vit_run::Error::InUse { path: run.clone() }.into()),
            Err(error) if error.is_not_regular() => return Err(error.into()),
            Ok(Some(_)) | Err(_) => {}
        }
    }
    let most_bytes = most_bytes(&settings)?;
    let mut findings = Vec::new();
    let (mut newest, mut whole) = (None::<SavedState>, Vec::new());
    for path in newest_checkpoints(run)? {
        let checked = SavedState::read(&path, most_bytes).map_err(Failure::from);
        let checked = checked.and_then(|saved| {
            check_settings(&path, &saved, &settings)?;
            Ok(saved)
        });
        let part = path.strip_prefix(run).unwrap_or(&path).display().to_string();
        let found = checked.map(|saved| {
            newest.get_or_insert(saved);
            whole.push(path.clone());
            "unchanged"
        });
        findings.push(Finding::of(part, found));
    }
    let Some(newest) = newest else {
        if findings.is_empty() {
            let message = format!("{} has no checkpoint", run.display());
            return Err(
                Failure::new(Exit::File, message).hint("train longer, or with --save-every")
            );
        }
        return tell(args, &findings);
    };
    findings.push(Finding::of(METRICS, metrics(run, &newest)));
    findings.push(Finding::of(MODEL, model(run, &whole, most_bytes)));
    if let Some(digest) = newest.about.get(BEST) {
        findings.push(Finding::of(vit_run::BEST, best(run, &newest, digest, most_bytes)));
    }
    if !args.files_only {
        findings.push(Finding::of("first steps", first_steps(args, settings, &newest)?));
    }
    tell(args, &findings)
}

fn tell(args: &Args, findings: &[Finding]) -> Result<ExitCode> {
    if args.json {
        output::json(&findings)?;
    } else {
        let width = findings.iter().map(|finding| finding.part.len()).max().unwrap_or(0);
        for Finding { part, sound, found } in findings {
            let mark = if *sound { "ok " } else { "BAD" };
            output::line(format!("{mark}  {part:<width$}  {found}"))?;
        }
    }
    let unsound = findings.iter().filter(|finding| !finding.sound).count();
    if unsound == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!("{}: {unsound} of {} checks failed", args.run.display(), findings.len());
    let hint = "restore what is marked BAD from a copy, or train again in another directory";
    Err(Failure::new(Exit::File, message).hint(hint))
}

/// Checks that the metrics begin as at the newest checkpoint.
fn metrics(run: &Path, newest: &SavedState) -> Result<&'static str> {
    newest.metrics.check(&run.join(METRICS))?;
    Ok("unchanged since the newest checkpoint")
}

/// Checks that the run's model is a checkpoint's: the newest one's, unless the program ended before writing it.
fn model(run: &Path, whole: &[PathBuf], most_bytes: u64) -> Result<String> {
    let path = run.join(MODEL);
    if !path.exists() {
        return Ok("not written yet: `vit train --resume` writes it".to_owned());
    }
    let got = digest_of(&path, most_bytes)?;
    for (age, checkpoint) in whole.iter().enumerate() {
        if Digest::of_file(&checkpoint.join(MODEL))? == got {
            let name = checkpoint.file_name().unwrap_or_default().display();
            let of = if age == 0 { "the newest checkpoint".to_owned() } else { name.to_string() };
            return Ok(format!("equal to {of}"));
        }
    }
    Err(Failure::new(Exit::File, format!("equal to no checkpoint: SHA-256 {got}")))
}

/// Checks that the best epoch's weights are those recorded in the newest checkpoint. If the run reached a better epoch
/// after that, no digest is recorded yet, so any readable model passes.
fn best(run: &Path, newest: &SavedState, digest: &Value, most_bytes: u64) -> Result<&'static str> {
    let path = run.join(vit_run::BEST);
    let got = digest_of(&path, most_bytes)?.to_string();
    if *digest == got {
        return Ok("unchanged since the newest checkpoint");
    }
    let best = Best::of(&read_metrics(&run.join(METRICS))?.epochs);
    if best.epoch() != newest.state.progress.best.epoch() && ModelFile::open(&path).is_ok() {
        return Ok("newer than the newest checkpoint: `vit train --resume` writes it again");
    }
    Err(Failure::new(
        Exit::File,
        format!("expected SHA-256 {}, got {got}", digest.as_str().unwrap_or("none")),
    ))
}

/// The digest of a model file, if its size is within this run's limit.
fn digest_of(path: &Path, most_bytes: u64) -> Result<Digest> {
    let file = open_file(path).map_err(vit_files::Error::io("open", path))?;
    let length = file.metadata().map_err(vit_files::Error::io("read", path))?.len();
    if length > most_bytes {
        let message = format!("expected at most {most_bytes} bytes, got {length}");
        return Err(Failure::new(Exit::File, message).about(path.display()));
    }
    Ok(Digest::of_file(path)?)
}

/// Repeats the run's first steps. An error means that it could not; a failed check is returned as a finding.
fn first_steps(args: &Args, settings: Settings, newest: &SavedState) -> Result<Result<String>> {
    let prefix = newest.about.get("prefix");
    let known = prefix.and_then(|prefix| {
        Some((prefix["steps"].as_u64()?, prefix["parameters"].as_str()?.to_owned()))
    });
    let Some((steps, expected)) = known else {
        return Ok(Ok("not checked: the run recorded no digest of them".to_owned()));
    };
    if newest.about.get(BITS.0) != Some(&BITS.1.into()) {
        return Ok(Ok("not checked: another vit took them, which computes other bits".to_owned()));
    }
    let device = args.device.open()?;
    let here = device::name(&device);
    if newest.about.get("device").is_some_and(|there| *there != here) {
        let there = &newest.about["device"];
        return Ok(Ok(format!("not checked: they were taken on {there}, this is {here:?}")));
    }
    let check = |found: &Found| check_dataset(newest, &found.digest());
    let on = (args.threads, &Ranks::alone());
    let mut set_up = SetUp::new((settings, Asked::all()), &args.place, device, on, &check)?;
    set_up.initialise()?;
    // Like the run did: on a GPU, features computed in other batches could differ in their last bits.
    set_up.cache_features()?;
    let mut first = FirstSteps { steps, state: None };
    set_up.trainer.run(&set_up.images, &mut first)?;
    let state = first.state.ok_or_else(|| {
        Failure::new(Exit::File, format!("expected {steps} steps, but the run ended earlier"))
    })?;
    let got = digest(&state, &set_up.settings)?;
    if got == expected {
        return Ok(Ok(format!("{steps} steps repeated, bit-identical")));
    }
    let message =
        format!("expected parameters of SHA-256 {expected} after {steps} steps, got {got}");
    Ok(Err(Failure::new(Exit::File, message)))
}

/// Keeps the state after `steps` steps, and ends the run there.
struct FirstSteps {
    steps: u64,
    state: Option<TrainState>,
}

impl Observer for FirstSteps {
    type Error = Failure;

    fn checkpoint(
        &mut self,
        at: Checkpoint,
        state: &mut dyn FnMut() -> std::result::Result<TrainState, vit_train::Error>,
    ) -> Result<()> {
        if at.step() == self.steps && self.state.is_none() {
            self.state = Some(state()?);
        }
        Ok(())
    }

    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<()> {
        if step.step() >= self.steps {
            step.stop();
        }
        Ok(())
    }
}
