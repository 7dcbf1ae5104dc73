//! Taking a run up again: which checkpoint, and whether it is of this run.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use vit_files::{Digest, open_file, text_of_at_most, write_atomically};
use vit_model::Layout;
use vit_train::{RunFolder, SavedState, TrainState, newest_checkpoints};

use super::set_up::SetUp;
use crate::differences::differences;
use crate::failure::{Exit, Failure, Result};
use crate::report::environment;
use crate::settings::Settings;

/// The checkpoint that a run goes on with.
pub(crate) struct Resumed {
    pub(crate) path: PathBuf,
    pub(crate) saved: SavedState,
}

impl Resumed {
    /// The newest one that is whole, with a warning for each that is not; none where there are no checkpoints.
    ///
    /// # Errors
    /// If none is whole, or the newest that is whole is of other settings or another version.
    pub(crate) fn of(folder: &RunFolder, settings: &Settings) -> Result<Option<Self>> {
        let mut damaged: Vec<(PathBuf, Failure)> = Vec::new();
        let mut checkpoints = newest_checkpoints(folder.path())?.into_iter().peekable();
        while let Some(path) = checkpoints.next() {
            match SavedState::read(&path) {
                Ok(saved) => {
                    check_settings(&path, &saved, settings)?;
                    // They would be taken for the newest, and whole ones go to make room.
                    damaged.iter().try_for_each(|(path, _)| folder.remove_checkpoint(path))?;
                    return Ok(Some(Self { path, saved }));
                }
                Err(error @ vit_train::Error::File(_)) => {
                    let failure = Failure::from(error);
                    if checkpoints.peek().is_some() {
                        tracing::warn!("{}; looking at the one before", failure.message());
                    }
                    damaged.push((path, failure));
                }
                Err(error) => return Err(error.into()),
            }
        }
        match damaged.pop() {
            None => Ok(None),
            Some((_, failure)) => {
                Err(failure
                    .hint("no checkpoint of this run is whole; train again into another folder"))
            }
        }
    }
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
    let of_checkpoint = Settings::of_run(path)?.to_table();
    let different = differences(&[&of_checkpoint, &settings.to_table()]);
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
            let message = error.to_string();
            let problems = message.split_once('\n').map_or(message.as_str(), |(_, rest)| rest);
            let path = path.display();
            let message = format!("the {what} of {path} are not of its settings:\n{problems}");
            Failure::new(Exit::File, message)
                .hint("it was changed, and its digests with it: go on from a copy that was not")
        })?;
    }
    Ok(())
}

/// Bytes of what is said of a machine.
const LONGEST: u64 = 1 << 16;

/// What the run goes on with here; a warning where that is not what it began with.
pub(super) fn environment(folder: &RunFolder, set_up: &SetUp) -> Result<Map<String, Value>> {
    let here = environment::of_this_machine(set_up);
    let path = folder.path().join(environment::FILE);
    let began = open_file(&path).and_then(|file| text_of_at_most(LONGEST, file));
    let began = began.ok().and_then(|text| serde_json::from_str(&text).ok());
    let Some(Value::Object(began)) = began else {
        write_atomically(&path, environment::to_text(&here).as_bytes())?;
        return Ok(here);
    };
    for name in ["vit", "commit", "system", "processor", "device"] {
        if began.get(name) != here.get(name) {
            let text = |value: Option<&Value>| value.unwrap_or(&Value::Null).to_string();
            let (began, here) = (text(began.get(name)), text(here.get(name)));
            tracing::warn!(
                "the run began with {name} {began} and goes on with {here}: last bits may differ"
            );
        }
    }
    Ok(here)
}
