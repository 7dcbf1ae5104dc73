//! Resuming a run: which checkpoint, whether it is of this run, and what is damaged. Nothing is changed before all is checked.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vit_files::{Digest, SUMS};
use vit_model::{Layout, Summary};
use vit_run::{
    CHECKPOINTS, CONFIG, Environment, MODEL, MetricsFile, MetricsMark, Rebuilt, RunFolder, STATE,
    TENSORS, newest_checkpoints,
};
use vit_train::{SavedState, TrainState, most_bytes_of};

use super::environment;
use super::set_up::SetUp;
use crate::differences::differences;
use crate::failure::{Exit, Failure, Result};
use crate::settings::Settings;
use crate::terminal::quoted;

/// The folder of the run that a path names: itself, or the one above if it is the run's newest checkpoint.
///
/// # Errors
/// If it is another checkpoint.
pub(crate) fn run_of(path: &Path) -> Result<PathBuf> {
    let mut is_checkpoint = false;
    for name in [SUMS, STATE, TENSORS] {
        let file = path.join(name);
        match fs::symlink_metadata(&file) {
            Ok(_) => is_checkpoint = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(vit_files::Error::io("read", &file)(error).into()),
        }
    }
    if !is_checkpoint {
        return Ok(path.to_owned());
    }
    let (shown, init) = (path.display(), path.join(MODEL));
    let init = format!("`vit train --init {}` begins a new run with its weights", quoted(&init));
    let named = fs::canonicalize(path).map_err(vit_files::Error::io("read", path))?;
    let run_above = |path: &Path| {
        let above = path.parent().filter(|above| above.ends_with(CHECKPOINTS))?;
        above.parent().filter(|run| !run.as_os_str().is_empty()).map(Path::to_owned)
    };
    // As the user wrote it, if that says it.
    let Some(run) = run_above(path).or_else(|| run_above(&named)) else {
        let message = format!("expected a run folder, got a checkpoint outside of one: {shown}");
        return Err(Failure::new(Exit::Usage, message).hint(init));
    };
    let newest = newest_checkpoints(&run)?.into_iter().next();
    let newest = newest.as_deref().and_then(Path::file_name).unwrap_or_default();
    let is_newest =
        fs::canonicalize(run.join(CHECKPOINTS).join(newest)).is_ok_and(|it| it == named);
    if !is_newest {
        let message = format!(
            "expected the newest checkpoint of {}, {}, got {shown}",
            run.display(),
            newest.display()
        );
        return Err(Failure::new(Exit::Usage, message).hint(init));
    }
    Ok(run)
}

/// What a run goes on from.
pub(crate) struct Resumed {
    /// None where the run has no checkpoint yet.
    pub(crate) checkpoint: Option<(PathBuf, SavedState)>,
    /// Newer checkpoints than that, which are damaged.
    damaged: Vec<PathBuf>,
    /// What `metrics.jsonl` is held to: less than the checkpoint says where the file is damaged.
    metrics: MetricsMark,
    are_metrics_damaged: bool,
}

impl Resumed {
    /// Finds the newest checkpoint that is whole, and how much of the metrics is. Changes nothing.
    ///
    /// # Errors
    /// If there are checkpoints and none is whole, one cannot be read now, or the newest that is whole is of other settings
    /// or another version.
    pub(crate) fn find(folder: &RunFolder, settings: &Settings) -> Result<Self> {
        let most_bytes = most_bytes(settings)?;
        let read = |path: &Path| SavedState::read(path, most_bytes);
        let mut damaged = Vec::new();
        let mut checkpoints = newest_checkpoints(folder.path())?.into_iter().peekable();
        while let Some(path) = checkpoints.next() {
            match read(&path) {
                Ok(saved) => {
                    check_settings(&path, &saved, settings)?;
                    let older = checkpoints.map(|path| read(&path));
                    let (metrics, are_metrics_damaged) =
                        sound_metrics(&folder.metrics(), &saved.metrics, older)?;
                    let checkpoint = Some((path, saved));
                    return Ok(Self { checkpoint, damaged, metrics, are_metrics_damaged });
                }
                Err(error) if error.is_damage() => {
                    let failure = Failure::from(error);
                    if checkpoints.peek().is_none() {
                        let hint =
                            "no checkpoint of this run is whole; train again into another folder";
                        return Err(failure.hint(hint));
                    }
                    tracing::warn!("{}; trying the checkpoint before", failure.message());
                    damaged.push(path);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if folder.model().exists() {
            let (run, model) = (folder.path().display(), folder.model());
            let message = format!("{run} has a model and no checkpoint to resume from");
            let hint = format!("`vit train --init {}` begins with it", quoted(&model));
            return Err(Failure::new(Exit::File, message).hint(hint));
        }
        let metrics = MetricsMark::default();
        let are_metrics_damaged = is_damaged(&metrics, &folder.metrics())?;
        Ok(Self { checkpoint: None, damaged, metrics, are_metrics_damaged })
    }

    /// Steps that were taken before.
    pub(crate) fn steps(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |(_, saved)| saved.state.progress.step)
    }

    /// Makes the run's folder one to go on in: sets aside what is damaged. To be called once all checks have passed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn repair(&mut self, folder: &RunFolder) -> Result<MetricsFile> {
        folder.remove_temporary()?;
        for path in &self.damaged {
            let aside = folder.set_checkpoint_aside(path)?;
            tracing::warn!("{} is damaged; it is now {}", path.display(), aside.display());
        }
        if self.are_metrics_damaged {
            self.rebuild_metrics(folder)?;
        }
        Ok(MetricsFile::open_at(&folder.metrics(), &self.metrics)?)
    }

    /// Keeps of damaged metrics what is left, and has the checkpoint vouch for that: the one before it is set aside whole.
    fn rebuild_metrics(&mut self, folder: &RunFolder) -> Result<()> {
        let path = folder.metrics();
        let Rebuilt { aside, mark } = MetricsFile::rebuild(&path, &self.metrics, self.steps())?;
        let was = aside.map_or_else(
            || "missing".to_owned(),
            |aside| format!("damaged and is now {}", aside.display()),
        );
        tracing::warn!(
            "{} was {was}; the run goes on with {} bytes of it, of which {} are verified",
            path.display(),
            mark.bytes,
            self.metrics.bytes
        );
        self.metrics = mark.clone();
        let Some((checkpoint, saved)) = &mut self.checkpoint else { return Ok(()) };
        saved.metrics = mark;
        let read = |name: &str| {
            let file = checkpoint.join(name);
            fs::read(&file).map_err(vit_files::Error::io("read", &file))
        };
        let (config, model) = (read(CONFIG)?, read(MODEL)?);
        folder.set_checkpoint_aside(checkpoint)?;
        saved.write(folder, &[(CONFIG, &config), (MODEL, &model)])?;
        Ok(())
    }
}

/// The longest beginning of the metrics that a checkpoint vouches for, the newest first; whether it is less than the newest
/// does.
fn sound_metrics(
    path: &Path,
    newest: &MetricsMark,
    older: impl Iterator<Item = std::result::Result<SavedState, vit_train::Error>>,
) -> Result<(MetricsMark, bool)> {
    if !is_damaged(newest, path)? {
        return Ok((newest.clone(), false));
    }
    for saved in older {
        match saved {
            Ok(saved) if !is_damaged(&saved.metrics, path)? => return Ok((saved.metrics, true)),
            Ok(_) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((MetricsMark::default(), true))
}

fn is_damaged(mark: &MetricsMark, metrics: &Path) -> Result<bool> {
    match mark.check(metrics) {
        Ok(_) => Ok(false),
        Err(error) if error.is_damage() => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The bytes that a file of a run's checkpoint has at most.
///
/// # Errors
/// If the settings are of no model.
pub(crate) fn most_bytes(settings: &Settings) -> Result<u64> {
    Ok(most_bytes_of(Summary::of(&settings.model)?.parameters() as u64))
}

/// Of the environment: the digest of all images and labels.
pub(super) const DATASET: &str = "dataset_sha256";

/// Whether the dataset is the one that the run was trained on so far.
///
/// # Errors
/// If not.
pub(crate) fn check_dataset(saved: &SavedState, got: &Digest) -> Result<()> {
    let expected = saved.about.get(DATASET).and_then(Value::as_str).unwrap_or("none");
    if expected == got.to_string() {
        return Ok(());
    }
    let message = format!("the dataset is not what it was: expected SHA-256 {expected}, got {got}");
    Err(Failure::new(Exit::Data, message).hint("put back the images that the run began with"))
}

/// Whether a checkpoint, which carries the settings that it was trained with, is of these, and its parameters of their model:
/// it is asked before there is a model, which may be of any size.
///
/// # Errors
/// If not: each difference is named.
pub(crate) fn check_settings(path: &Path, saved: &SavedState, settings: &Settings) -> Result<()> {
    // What changes from there on need not be in it yet.
    let step = saved.state.progress.step;
    let of_checkpoint = Settings::of_run(path)?.before(step).to_table();
    let different = differences(&[&of_checkpoint, &settings.before(step).to_table()]);
    if different.is_empty() {
        return check_tensors(path, saved, settings);
    }
    let different: Vec<String> = different
        .into_iter()
        .map(|(name, values)| format!("{name} {} there, {} in config.toml", values[0], values[1]))
        .collect();
    let message = format!("{} is of other settings: {}", path.display(), different.join("; "));
    Err(Failure::new(Exit::File, message).hint("put back the config.toml of the run"))
}

/// Whether parameters, averages and moments are of the settings' model.
fn check_tensors(path: &Path, saved: &SavedState, settings: &Settings) -> Result<()> {
    let TrainState { parameters, averages, moments, .. } = &saved.state;
    let moments = moments.iter().map(|moments| ("moments", moments));
    let averages = averages.iter().map(|averages| ("averages", averages));
    for (what, tensors) in [("parameters", parameters)].into_iter().chain(averages).chain(moments) {
        Layout::Timm.import(tensors, &settings.model).map_err(|error| {
            let problems = match error {
                vit_model::Error::Parameters { problems, .. } => problems,
                other => vec![other.to_string()],
            };
            let path = path.display();
            let message = format!("the {what} of {path} are not of its settings");
            Failure::new(Exit::File, message)
                .details(problems)
                .hint("it was changed, and its digests with it: go on from a copy that was not")
        })?;
    }
    Ok(())
}

/// What the run goes on with here; a warning where that is not what it began with. An `env.json` that is missing or no JSON is
/// written anew.
///
/// # Errors
/// If it cannot be read or written.
pub(super) fn environment(folder: &RunFolder, set_up: &SetUp) -> Result<Environment> {
    let here = environment::of_this_machine(set_up);
    let Some(began) = Environment::read(folder)? else {
        here.write(folder)?;
        return Ok(here);
    };
    for name in ["vit", "commit", "system", "processor", "device"] {
        if began.0.get(name) != here.0.get(name) {
            let text = |value: Option<&Value>| value.unwrap_or(&Value::Null).to_string();
            let (began, here) = (text(began.0.get(name)), text(here.0.get(name)));
            tracing::warn!(
                "the run began with {name} {began} and goes on with {here}: last bits may differ"
            );
        }
    }
    Ok(here)
}
