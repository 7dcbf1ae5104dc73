//! Resuming a run: finds its checkpoint, and checks that it belongs to the run and is undamaged. Nothing changes before
//! all checks pass.

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

/// The run directory for a path: itself, or its parent run if the path is the newest checkpoint.
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
    let init = format!("`vit train --init {}` starts a new run from its weights", quoted(&init));
    let named = fs::canonicalize(path).map_err(vit_files::Error::io("read", path))?;
    let run_above = |path: &Path| {
        let above = path.parent().filter(|above| above.ends_with(CHECKPOINTS))?;
        above.parent().filter(|run| !run.as_os_str().is_empty()).map(Path::to_owned)
    };
    // The user's own spelling, if possible.
    let Some(run) = run_above(path).or_else(|| run_above(&named)) else {
        let message = format!("expected a run directory, got a checkpoint outside of one: {shown}");
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

/// The point at which a run resumes.
pub(crate) struct Resumed {
    /// `None` if the run has no checkpoint yet.
    pub(crate) checkpoint: Option<(PathBuf, SavedState)>,
    /// Newer checkpoints, which are damaged.
    damaged: Vec<PathBuf>,
    /// The verified part of `metrics.jsonl`; less than the checkpoint's if the file is damaged.
    metrics: MetricsMark,
    are_metrics_damaged: bool,
}

impl Resumed {
    /// Finds the newest undamaged checkpoint, and the verified part of the metrics. Changes nothing.
    ///
    /// # Errors
    /// If all checkpoints are damaged, one cannot be read, or the newest undamaged one has other settings or another
    /// version.
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
                        let hint = "all checkpoints of this run are damaged; train again in another directory";
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
            let message = format!("{run} has a model but no checkpoint to resume from");
            let hint = format!("`vit train --init {}` starts a new run from it", quoted(&model));
            return Err(Failure::new(Exit::File, message).hint(hint));
        }
        let metrics = MetricsMark::default();
        let are_metrics_damaged = is_damaged(&metrics, &folder.metrics())?;
        Ok(Self { checkpoint: None, damaged, metrics, are_metrics_damaged })
    }

    /// Steps completed before.
    pub(crate) fn steps(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |(_, saved)| saved.state.progress.step)
    }

    /// Prepares the run directory: sets damaged files aside. Call it only after all checks have passed.
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

    /// Rebuilds damaged metrics from what is left, and updates the checkpoint's record of them; the earlier checkpoint
    /// is set aside.
    fn rebuild_metrics(&mut self, folder: &RunFolder) -> Result<()> {
        let path = folder.metrics();
        let Rebuilt { aside, mark } = MetricsFile::rebuild(&path, &self.metrics, self.steps())?;
        let was = aside.map_or_else(
            || "missing".to_owned(),
            |aside| format!("damaged and is now {}", aside.display()),
        );
        tracing::warn!(
            "{} was {was}; {} bytes of it are kept, {} of them verified",
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

/// The longest prefix of the metrics that a checkpoint verifies, newest first; and whether it is shorter than the
/// newest checkpoint's.
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

/// Size limit of a checkpoint's files.
///
/// # Errors
/// If the settings are invalid.
pub(crate) fn most_bytes(settings: &Settings) -> Result<u64> {
    Ok(most_bytes_of(Summary::of(&settings.model)?.parameters() as u64))
}

/// Key in `env.json`: the digest of all images and labels.
pub(super) const DATASET: &str = "dataset_sha256";

/// Checks that the dataset is the one the run was trained on.
///
/// # Errors
/// If it has changed.
pub(crate) fn check_dataset(saved: &SavedState, got: &Digest) -> Result<()> {
    let expected = saved.about.get(DATASET).and_then(Value::as_str).unwrap_or("none");
    if expected == got.to_string() {
        return Ok(());
    }
    let message = format!("the dataset has changed: expected SHA-256 {expected}, got {got}");
    Err(Failure::new(Exit::Data, message).hint("restore the images that the run started with"))
}

/// Checks that a checkpoint, which contains its settings, matches these settings and their model. Done before a model
/// is built, because the settings could ask for any size.
///
/// # Errors
/// If it does not match; the error names each difference.
pub(crate) fn check_settings(path: &Path, saved: &SavedState, settings: &Settings) -> Result<()> {
    // Later changes need not be in it yet.
    let step = saved.state.progress.step;
    let of_checkpoint = Settings::of_run(path)?.before(step).to_table();
    let different = differences(&[&of_checkpoint, &settings.before(step).to_table()]);
    if different.is_empty() {
        return check_tensors(path, saved, settings);
    }
    let different: Vec<String> = different
        .into_iter()
        .map(|(name, values)| format!("{name} is {}, but {} in config.toml", values[0], values[1]))
        .collect();
    let message = format!("{} has other settings: {}", path.display(), different.join("; "));
    Err(Failure::new(Exit::File, message).hint("restore the run's original config.toml"))
}

/// Checks that parameters, averages and moments match the settings' model.
fn check_tensors(path: &Path, saved: &SavedState, settings: &Settings) -> Result<()> {
    let TrainState { parameters, averages, moments, .. } = &saved.state;
    let moments = moments.iter().map(|moments| ("moments", moments));
    let averages = averages.iter().map(|averages| ("averages", averages));
    for (what, tensors) in [("parameters", parameters)].into_iter().chain(averages).chain(moments) {
        // Frozen parameters have no averages or moments; only the trainer knows which they are.
        let mut whole = parameters.clone();
        whole.extend(tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        Layout::Timm.import(&whole, &settings.model).map_err(|error| {
            let problems = match error {
                vit_model::Error::Parameters { problems, .. } => problems,
                other => vec![other.to_string()],
            };
            let path = path.display();
            let message = format!("the {what} of {path} do not match its settings");
            Failure::new(Exit::File, message)
                .details(problems)
                .hint("it was changed together with its digests: resume from an unchanged copy")
        })?;
    }
    Ok(())
}

/// The environment to resume in; warns of differences from the original. Rewrites an `env.json` that is missing or
/// malformed.
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
                "the run started with {name} {began} and resumes with {here}: last bits may differ"
            );
        }
    }
    Ok(here)
}
