//! `vit verify`: whether a run folder holds what was written, and its first steps can be taken again to the same bits.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;
use vit_files::{Digest, FileLock};
use vit_model::ModelFile;
use vit_train::{
    AfterStep, Best, Checkpoint, LOCK, MetricsFile, Observer, SavedState, TrainState,
    newest_checkpoints, read_epochs,
};

use super::train::{BEST, SetUp, check_dataset, check_settings, digest};
use crate::dataset::Found;
use crate::failure::{Exit, Failure, Result};
use crate::settings::Settings;
use crate::{cli, device, output};

/// What was found of a part of a run.
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
            Err(failure) => (false, failure.message().to_owned()),
        };
        Self { part: part.into(), sound, found }
    }
}

pub(super) fn run(args: &cli::Verify) -> Result<ExitCode> {
    let settings = Settings::of_run(&args.run)?;
    // Of a folder that cannot be written nobody trains in.
    if let Ok(None) = FileLock::try_acquire(&args.run.join(LOCK)) {
        return Err(vit_train::Error::InUse { path: args.run.clone() }.into());
    }
    let mut findings = Vec::new();
    let (mut newest, mut whole) = (None::<SavedState>, Vec::new());
    for path in newest_checkpoints(&args.run)? {
        let checked = SavedState::read(&path).map_err(Failure::from);
        let checked = checked.and_then(|saved| {
            check_settings(&path, &saved, &settings)?;
            Ok(saved)
        });
        let part = path.strip_prefix(&args.run).unwrap_or(&path).display().to_string();
        let found = checked.map(|saved| {
            newest.get_or_insert(saved);
            whole.push(path.clone());
            "as it was written"
        });
        findings.push(Finding::of(part, found));
    }
    let Some(newest) = newest else {
        if findings.is_empty() {
            let message = format!("{} has no checkpoint", args.run.display());
            return Err(
                Failure::new(Exit::File, message).hint("train longer, or with --save-every")
            );
        }
        return tell(args, &findings);
    };
    findings.push(Finding::of("metrics.jsonl", metrics(&args.run, &newest)));
    findings.push(Finding::of("model.safetensors", model(&args.run, &whole)));
    if let Some(digest) = newest.about.get(BEST) {
        findings.push(Finding::of("best.safetensors", best(&args.run, &newest, digest)));
    }
    if !args.files_only {
        findings.push(Finding::of("first steps", first_steps(args, settings, &newest)?));
    }
    tell(args, &findings)
}

fn tell(args: &cli::Verify, findings: &[Finding]) -> Result<ExitCode> {
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
    let message =
        format!("{}: {unsound} of {} parts are unsound", args.run.display(), findings.len());
    Err(Failure::new(Exit::File, message))
}

/// Whether the metrics begin with what they were at the newest checkpoint.
fn metrics(run: &Path, newest: &SavedState) -> Result<&'static str> {
    MetricsFile::check(&run.join("metrics.jsonl"), &newest.metrics)?;
    Ok("as they were at the newest checkpoint")
}

/// Whether the run's model is that of a checkpoint: of the newest, unless the program was ended before it was written.
fn model(run: &Path, whole: &[PathBuf]) -> Result<String> {
    let path = run.join("model.safetensors");
    if !path.exists() {
        return Ok("not written yet: `vit train --resume` does so".to_owned());
    }
    let got = Digest::of_file(&path)?;
    for (age, checkpoint) in whole.iter().enumerate() {
        if Digest::of_file(&checkpoint.join("model.safetensors"))? == got {
            let name = checkpoint.file_name().unwrap_or_default().display();
            let of = if age == 0 { "the newest checkpoint".to_owned() } else { name.to_string() };
            return Ok(format!("that of {of}"));
        }
    }
    Err(Failure::new(Exit::File, format!("that of no checkpoint: SHA-256 {got}")))
}

/// Whether the best epoch's weights are those of when the newest checkpoint was written. Where the run came to a better epoch after
/// that, they are of that one, or of another that a model can be read from: there is no digest of it yet.
fn best(run: &Path, newest: &SavedState, digest: &Value) -> Result<&'static str> {
    let path = run.join("best.safetensors");
    let got = Digest::of_file(&path)?.to_string();
    if *digest == got {
        return Ok("as it was at the newest checkpoint");
    }
    let best = Best::of(&read_epochs(&run.join("metrics.jsonl"))?);
    if best.epoch() != newest.state.progress.best.epoch() && ModelFile::open(&path).is_ok() {
        return Ok("of an epoch after the newest checkpoint: `vit train --resume` makes it anew");
    }
    Err(Failure::new(
        Exit::File,
        format!("expected SHA-256 {}, got {got}", digest.as_str().unwrap_or("none")),
    ))
}

/// Takes the first steps again. What prevents that is an error; another outcome is an unsound part.
fn first_steps(
    args: &cli::Verify,
    settings: Settings,
    newest: &SavedState,
) -> Result<Result<String>> {
    let prefix = newest.about.get("prefix");
    let known = prefix.and_then(|prefix| {
        Some((prefix["steps"].as_u64()?, prefix["parameters"].as_str()?.to_owned()))
    });
    let Some((steps, expected)) = known else {
        return Ok(Ok("no digest of them was recorded".to_owned()));
    };
    let device = args.device.open()?;
    let here = device::name(&device);
    if newest.about.get("device").is_some_and(|there| *there != here) {
        let there = &newest.about["device"];
        return Ok(Ok(format!("taken on {there}; not taken again on {here:?}")));
    }
    let check = |found: &Found| check_dataset(newest, &found.digest());
    let mut set_up = SetUp::new(settings, &args.place, device, args.threads, &check)?;
    set_up.initialise()?;
    let mut first = FirstSteps { steps, state: None };
    set_up.trainer.run(&set_up.images, &mut first)?;
    let state = first.state.ok_or_else(|| {
        Failure::new(Exit::File, format!("expected {steps} steps, and the run ended before"))
    })?;
    let got = digest(&state, &set_up.settings)?;
    if got == expected {
        return Ok(Ok(format!("{steps} taken again, to the same bits")));
    }
    let message = format!("expected parameters of SHA-256 {expected} after {steps}, got {got}");
    Ok(Err(Failure::new(Exit::File, message)))
}

/// Keeps the state after some steps, and ends there.
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
