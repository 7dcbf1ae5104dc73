//! Runs, as described by their directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};
use vit_run::{
    CONFIG, ENVIRONMENT, EpochMetrics, LAST, METRICS, MODEL, Metrics, REPORT, RunFolder,
    read_metrics,
};

use crate::Problem;
use crate::files::text;
use crate::models::is_run;

/// Without locks, a run that has written nothing for this long counts as stopped.
const SILENCE: Duration = Duration::from_secs(120);
/// Most steps whose losses are returned, evenly spread.
const MOST_POINTS: usize = 1000;

/// The runs of a server.
#[derive(Default)]
pub(crate) struct Runs {
    folder: Option<PathBuf>,
    /// Only this run.
    only: Option<String>,
    /// Cached summaries, by version of the metrics.
    read: Mutex<BTreeMap<String, (Version, Summary)>>,
}

/// A file's size and modification time.
type Version = (u64, SystemTime);

/// A run in the list.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    name: String,
    preset: Option<String>,
    dataset: Option<String>,
    /// `running`, `stopped` or `finished`.
    state: &'static str,
    epoch: u64,
    step: u64,
    /// Planned number of epochs.
    epochs: Option<u64>,
    max_steps: Option<u64>,
    seconds_left: Option<f64>,
    last: Option<EpochMetrics>,
    best_accuracy: Option<f64>,
    has_model: bool,
    has_report: bool,
    /// Seconds since 1970.
    changed: f64,
}

/// All details of a run, except its model.
#[derive(Debug, Serialize)]
pub(crate) struct Details {
    #[serde(flatten)]
    summary: Summary,
    settings: Value,
    environment: Map<String, Value>,
    epochs_done: Vec<EpochMetrics>,
    steps: Vec<vit_run::StepMetrics>,
}

impl Runs {
    pub(crate) fn one(run: &Path) -> Self {
        // `runs/x/..` has no file name.
        let run = fs::canonicalize(run).unwrap_or_else(|_| run.to_owned());
        let name = run.file_name().map(|name| name.to_string_lossy().into_owned());
        let folder = run.parent().map(Path::to_owned);
        Self { folder, only: name, ..Self::default() }
    }

    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()), ..Self::default() }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let Some(folder) = &self.folder else { return Vec::new() };
        if let Some(only) = &self.only {
            return vec![only.clone()];
        }
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // The link to the newest run is not another run.
        let is_shown = |name: &String| name != LAST && !name.starts_with('.');
        let mut names: Vec<String> =
            names.filter(is_shown).filter(|name| is_run(&folder.join(name))).collect();
        names.sort();
        names
    }

    /// The directory of the run with this name, if it exists.
    pub(crate) fn folder(&self, name: &str) -> Option<PathBuf> {
        let is_one = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
        let is_shown = self.only.as_deref().is_none_or(|only| only == name);
        let path = self.folder.as_ref().filter(|_| is_one && is_shown)?.join(name);
        is_run(&path).then_some(path)
    }

    /// Newest first.
    pub(crate) fn list(&self) -> Vec<Summary> {
        let names = self.names().into_iter();
        let mut runs: Vec<Summary> = names.filter_map(|name| self.summary(&name)).collect();
        runs.sort_by(|a, b| b.changed.total_cmp(&a.changed));
        runs
    }

    pub(crate) fn details(&self, name: &str) -> Result<Details, Problem> {
        let missing = || Problem::new(404, format!("there is no run {name:?}"));
        let folder = self.folder(name).ok_or_else(missing)?;
        let summary = self.summary(name).ok_or_else(missing)?;
        let metrics = read_metrics(&folder.join(METRICS))
            .map_err(|error| Problem::new(500, error.to_string()))?;
        let stride = metrics.steps.len().div_ceil(MOST_POINTS).max(1);
        // Keeps the last of each stretch, so that the newest step is included.
        let steps = metrics.steps.rchunks(stride).rev().filter_map(<[_]>::last).cloned().collect();
        let environment =
            text(&folder.join(ENVIRONMENT)).and_then(|text| serde_json::from_str(&text).ok());
        Ok(Details {
            summary,
            settings: settings(&folder),
            environment: environment.unwrap_or_default(),
            epochs_done: metrics.epochs,
            steps,
        })
    }

    fn summary(&self, name: &str) -> Option<Summary> {
        let folder = self.folder(name)?;
        let data = fs::metadata(folder.join(METRICS)).ok()?;
        let stamp = (data.len(), data.modified().ok()?);
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let mut summary = match known {
            Some((known, summary)) if known == stamp => summary,
            _ => {
                // A run whose metrics cannot be read is still listed, without metrics.
                let metrics = read_metrics(&folder.join(METRICS)).unwrap_or_default();
                let summary = summary_of(name, &metrics, &settings(&folder));
                let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                read.insert(name.to_owned(), (stamp, summary.clone()));
                summary
            }
        };
        let idle = stamp.1.elapsed().unwrap_or_default();
        summary.changed = stamp.1.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
        summary.has_model = folder.join(MODEL).is_file();
        summary.has_report = folder.join(REPORT).is_file();
        let is_heard = || {
            let patience = summary.last.as_ref().map_or(0.0, |epoch| 3.0 * epoch.seconds);
            idle < SILENCE.max(Duration::try_from_secs_f64(patience).unwrap_or_default())
        };
        summary.state = match () {
            () if summary.is_finished() => "finished",
            () if RunFolder::is_in_use(&folder).unwrap_or_else(is_heard) => "running",
            () => "stopped",
        };
        summary.seconds_left = summary.time_left(idle.as_secs_f64());
        Some(summary)
    }
}

impl Summary {
    fn is_finished(&self) -> bool {
        let is_over = self.epochs.is_some_and(|epochs| self.epoch >= epochs);
        self.last.is_some() && (is_over || self.max_steps.is_some_and(|steps| self.step >= steps))
    }

    /// Estimate: the last epoch's time for each remaining one.
    fn time_left(&self, idle: f64) -> Option<f64> {
        let last = self.last.as_ref().filter(|_| self.state == "running")?;
        let steps = last.step as f64 / last.epoch.max(1) as f64;
        let all = self.max_steps.map_or(f64::INFINITY, |most| most as f64 / steps.max(1.0));
        let left = all.min(self.epochs? as f64) - last.epoch as f64;
        Some((left * last.seconds - idle).max(0.0)).filter(|left| left.is_finite())
    }
}

fn summary_of(name: &str, metrics: &Metrics, settings: &Value) -> Summary {
    let text = |name: &str| settings.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| settings.get("train").and_then(|train| train.get(name)?.as_u64());
    let held_out = |epoch: &EpochMetrics| epoch.val_accuracy.or(epoch.test_accuracy);
    let last = metrics.epochs.last().cloned();
    let step = metrics.steps.last().map_or(0, |step| step.step);
    let later = (settings.get("changes").and_then(Value::as_array)).into_iter().flatten();
    let later = later.filter_map(|change| change.get("train")?.get("epochs")?.as_u64()).next_back();
    Summary {
        name: name.to_owned(),
        preset: text("preset"),
        dataset: text("dataset"),
        epoch: last.as_ref().map_or(0, |epoch| epoch.epoch),
        step: last.as_ref().map_or(step, |epoch| epoch.step.max(step)),
        epochs: later.or_else(|| number("epochs")),
        max_steps: number("max_steps"),
        best_accuracy: metrics.epochs.iter().filter_map(held_out).reduce(f64::max),
        last,
        ..Summary::default()
    }
}

/// The settings of a run as JSON.
fn settings(folder: &Path) -> Value {
    let parsed = text(&folder.join(CONFIG)).and_then(|text| text.parse::<toml::Table>().ok());
    parsed.and_then(|table| serde_json::to_value(table).ok()).unwrap_or_default()
}
