//! `vit compare`: compares runs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vit_report::{Comparison, comparison_page};
use vit_run::{EpochMetrics, METRICS, Metrics, read_metrics};

use crate::args::path;
use crate::columns;
use crate::differences::differences;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, percent};
use crate::outputs::{Force, Inputs, Output};
use crate::settings::Settings;
use crate::terminal::stdout;

/// Compares runs: results, best first, and the settings that differ
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directories
    #[arg(value_name = "RUN", required = true, value_parser = path())]
    pub(crate) runs: Vec<PathBuf>,
    /// HTML page to write, with all curves
    #[arg(short, long, value_name = "HTML", value_parser = path())]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) force: Force,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    // The pattern `runs/*` also matches files, such as an earlier page.
    let (files, folders): (Vec<&Path>, Vec<&Path>) =
        args.runs.iter().map(PathBuf::as_path).partition(|path| path.is_file());
    // The link `runs/last` is not another run.
    let is_linked =
        |path: &Path| path.is_symlink() && folders.iter().any(|other| is_same(other, path));
    let folders: Vec<&Path> = folders.iter().copied().filter(|path| !is_linked(path)).collect();
    for file in files {
        tracing::warn!("skipping {}: expected a run directory, got a file", file.display());
    }
    let output = args
        .output
        .as_deref()
        .map(|path| Output::new(path, &Inputs::of(folders.iter().copied()), args.force.existing()));
    let output = output.transpose()?;
    let is_alone = folders.len() == 1;
    let mut runs = Vec::new();
    for folder in folders {
        match Run::open(folder) {
            Err(failure) if !is_alone && folder.is_dir() => {
                tracing::warn!("skipping {}: {}", folder.display(), failure.message());
            }
            opened => runs.extend(opened?),
        }
    }
    // Best first; ties in the order of the command line.
    runs.sort_by(|a, b| b.accuracy().total_cmp(&a.accuracy()));
    if runs.is_empty() {
        let message = "expected at least one run with a completed epoch, got none";
        return Err(Failure::new(Exit::File, message).hint("pass run directories, such as runs/*"));
    }
    if let Some(mut output) = output {
        let compared = runs.iter().map(|run| vit_report::ComparedRun {
            name: run.name.clone(),
            metrics: run.metrics.clone(),
        });
        let comparison = Comparison {
            runs: compared.collect(),
            table: table(&runs),
            differences: different_settings(&runs),
        };
        output.write(comparison_page(&comparison).as_bytes())?;
    }
    if args.json {
        return output::json(&runs.iter().map(Run::as_json).collect::<Vec<_>>());
    }
    let width = stdout::width();
    columns::table(&table(&runs), width).iter().try_for_each(output::line)?;
    let differences = different_settings(&runs);
    if differences.len() > 1 {
        output::line("")?;
        let lines = columns::table(&differences, None);
        let fits = lines.iter().all(|line| line.chars().count() <= width.unwrap_or(usize::MAX));
        let lines = if fits { lines } else { by_value(&differences, width) };
        lines.iter().try_for_each(output::line)?;
    }
    Ok(())
}

/// Whether two different paths lead to the same place.
fn is_same(path: &Path, link: &Path) -> bool {
    path != link
        && path
            .canonicalize()
            .ok()
            .is_some_and(|path| link.canonicalize().is_ok_and(|link| link == path))
}

/// The table for narrow terminals: below each setting its values, each with the runs that have it.
fn by_value(differences: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let [heading, settings @ ..] = differences else { return Vec::new() };
    let of_setting = |row: &Vec<String>| {
        let mut values: Vec<(&str, Vec<&str>)> = Vec::new();
        for (value, run) in row[1..].iter().zip(&heading[1..]) {
            match values.iter_mut().find(|(known, _)| known == value) {
                Some((_, runs)) => runs.push(run),
                None => values.push((value, vec![run])),
            }
        }
        let values = values.into_iter();
        let values = values.map(|(value, runs)| format!("  {value}: {}", runs.join(", ")));
        let values = values.flat_map(|line| columns::wrapped(&line, 4, width));
        std::iter::once(row[0].clone()).chain(values).collect::<Vec<_>>()
    };
    settings.iter().flat_map(of_setting).collect()
}

/// A run to compare.
struct Run {
    name: String,
    settings: toml::Table,
    metrics: Metrics,
}

impl Run {
    /// Opens a run; `None`, after a warning, if it has no epoch yet.
    fn open(path: &Path) -> Result<Option<Self>> {
        let settings = Settings::of_run(path)?;
        let settings = settings.to_toml().parse().expect("settings are plain data");
        let metrics = read_metrics(&path.join(METRICS))?;
        if metrics.epochs.is_empty() {
            tracing::warn!("skipping {}: it has no completed epoch yet", path.display());
            return Ok(None);
        }
        Ok(Some(Self { name: path.display().to_string(), settings, metrics }))
    }

    fn last(&self) -> &EpochMetrics {
        self.metrics.epochs.last().expect("runs without an epoch are skipped")
    }

    /// The accuracy to sort by: validation if there is one, else test.
    fn accuracy(&self) -> f64 {
        let last = self.last();
        last.val_accuracy.or(last.test_accuracy).unwrap_or(f64::NEG_INFINITY)
    }

    /// Total time, if every epoch has it.
    fn seconds(&self) -> Option<f64> {
        let seconds: f64 = self.metrics.epochs.iter().map(|epoch| epoch.seconds).sum();
        Some(seconds).filter(|seconds| seconds.is_finite())
    }

    fn as_json(&self) -> Value {
        let last = self.last();
        json!({
            "run": self.name,
            "preset": self.settings["preset"],
            "dataset": self.settings.get("dataset"),
            "epochs": last.epoch,
            "train_accuracy": last.train_accuracy,
            "train_loss": last.train_loss,
            "val_accuracy": last.val_accuracy,
            "test_accuracy": last.test_accuracy,
            "test_loss": last.test_loss,
            "seconds": self.seconds(),
        })
    }
}

/// Headings, then a row for each run, least important columns last. Drops columns that are empty for all runs.
fn table(runs: &[Run]) -> Vec<Vec<String>> {
    let share = |value: Option<f64>| value.map(percent);
    let columns: Vec<(&str, Vec<Option<String>>)> = [
        ("run", runs.iter().map(|run| Some(run.name.clone())).collect()),
        ("val", runs.iter().map(|run| share(run.last().val_accuracy)).collect()),
        ("test", runs.iter().map(|run| share(run.last().test_accuracy)).collect()),
        ("train", runs.iter().map(|run| share(Some(run.last().train_accuracy))).collect()),
        ("epochs", runs.iter().map(|run| Some(run.last().epoch.to_string())).collect()),
        (
            "test loss",
            runs.iter().map(|run| run.last().test_loss.map(|x| format!("{x:.4}"))).collect(),
        ),
        ("seconds", runs.iter().map(|run| run.seconds().map(|x| format!("{x:.1}"))).collect()),
    ]
    .into_iter()
    .filter(|(_, cells): &(_, Vec<Option<String>>)| cells.iter().any(Option::is_some))
    .collect();
    rows(&columns)
}

/// A heading, then a row for each setting that differs between runs.
fn different_settings(runs: &[Run]) -> Vec<Vec<String>> {
    let settings: Vec<&toml::Table> = runs.iter().map(|run| &run.settings).collect();
    let heading = std::iter::once("setting".to_owned());
    let heading = heading.chain(runs.iter().map(|run| run.name.clone())).collect();
    let rows = differences(&settings).into_iter();
    let rows = rows.map(|(name, values)| std::iter::once(name).chain(values).collect());
    std::iter::once(heading).chain(rows).collect()
}

/// Transposes columns to rows, headings first.
fn rows(columns: &[(&str, Vec<Option<String>>)]) -> Vec<Vec<String>> {
    let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let runs = columns.first().map_or(0, |(_, cells)| cells.len());
    let row = |at: usize| {
        let cells = columns.iter().map(|(_, cells)| cells[at].clone());
        cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned())).collect()
    };
    std::iter::once(heading).chain((0..runs).map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, settings: &str, test_accuracy: Option<f64>) -> Run {
        let epoch =
            EpochMetrics { epoch: 3, train_accuracy: 0.5, test_accuracy, ..Default::default() };
        Run {
            name: name.to_owned(),
            settings: settings.parse().expect("sound settings"),
            metrics: Metrics { epochs: vec![epoch], ..Default::default() },
        }
    }

    #[test]
    fn narrow_terminals_list_the_runs_of_each_value() {
        let runs = [("a", "x = 1\ny = 2"), ("b", "x = 1\ny = 3"), ("c", "x = 4\ny = 2")];
        let runs = runs.map(|(name, settings)| run(name, settings, None));
        let expected = ["x", "  1: a, b", "  4: c", "y", "  2: a, c", "  3: b"];
        assert_eq!(by_value(&different_settings(&runs), Some(80)), expected);
    }

    #[test]
    fn empty_columns_are_dropped() {
        let table = table(&[run("a", "", Some(0.25)), run("b", "", None)]);
        assert_eq!(table[0], ["run", "test", "train", "epochs"]);
        assert_eq!(table[1], ["a", "25.00 %", "50.00 %", "3"]);
        assert_eq!(table[2], ["b", "–", "50.00 %", "3"]);
    }
}
