//! `vit compare`: several runs side by side.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vit_report::{Comparison, comparison_page};
use vit_run::{EpochMetrics, METRICS, Metrics, read_metrics};

use crate::args::path;
use crate::differences::differences;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, percent};
use crate::outputs::{Force, Inputs, Output};
use crate::settings::Settings;
use crate::terminal::escaped;

/// Compares runs: how each ended, and which settings differ
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run folders
    #[arg(value_name = "RUN", required = true, value_parser = path())]
    pub(crate) runs: Vec<PathBuf>,
    /// An HTML page to write, with the curves over one another
    #[arg(short, long, value_name = "HTML", value_parser = path())]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) force: Force,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let output = args.output.as_deref().map(|path| {
        let inputs = Inputs::of(args.runs.iter().map(PathBuf::as_path));
        Output::new(path, &inputs, args.force.existing())
    });
    let output = output.transpose()?;
    let runs = args.runs.iter().map(|path| Run::open(path)).collect::<Result<Vec<_>>>()?;
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
    print(&table(&runs))?;
    let differences = different_settings(&runs);
    if differences.len() > 1 {
        output::line("")?;
        print(&differences)?;
    }
    Ok(())
}

/// What is known of one run.
struct Run {
    name: String,
    settings: toml::Table,
    metrics: Metrics,
}

impl Run {
    fn open(path: &Path) -> Result<Self> {
        let settings = Settings::of_run(path)?;
        let settings = settings.to_toml().parse().expect("settings are plain data");
        let metrics = read_metrics(&path.join(METRICS))?;
        if metrics.epochs.is_empty() {
            let message = "expected an epoch in metrics.jsonl, got none";
            return Err(Failure::new(Exit::File, message).about(path.display()));
        }
        Ok(Self { name: path.display().to_string(), settings, metrics })
    }

    fn last(&self) -> &EpochMetrics {
        self.metrics.epochs.last().expect("a run without an epoch is refused")
    }

    /// Of all epochs, where each tells it.
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

/// A heading, then a row for each run: how each ended. A column that no run has is left out.
fn table(runs: &[Run]) -> Vec<Vec<String>> {
    let share = |value: Option<f64>| value.map(percent);
    let columns: Vec<(&str, Vec<Option<String>>)> = [
        ("run", runs.iter().map(|run| Some(run.name.clone())).collect()),
        ("epochs", runs.iter().map(|run| Some(run.last().epoch.to_string())).collect()),
        ("train", runs.iter().map(|run| share(Some(run.last().train_accuracy))).collect()),
        ("validation", runs.iter().map(|run| share(run.last().val_accuracy)).collect()),
        ("test", runs.iter().map(|run| share(run.last().test_accuracy)).collect()),
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

/// A heading, then a row for each setting that is not the same in all runs.
fn different_settings(runs: &[Run]) -> Vec<Vec<String>> {
    let settings: Vec<&toml::Table> = runs.iter().map(|run| &run.settings).collect();
    let heading = std::iter::once("setting".to_owned());
    let heading = heading.chain(runs.iter().map(|run| run.name.clone())).collect();
    let rows = differences(&settings).into_iter();
    let rows = rows.map(|(name, values)| std::iter::once(name).chain(values).collect());
    std::iter::once(heading).chain(rows).collect()
}

/// Columns as rows, the headings first.
fn rows(columns: &[(&str, Vec<Option<String>>)]) -> Vec<Vec<String>> {
    let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let runs = columns.first().map_or(0, |(_, cells)| cells.len());
    let row = |at: usize| {
        let cells = columns.iter().map(|(_, cells)| cells[at].clone());
        cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned())).collect()
    };
    std::iter::once(heading).chain((0..runs).map(row)).collect()
}

/// The first column to the left, the others to the right.
fn print(table: &[Vec<String>]) -> Result<()> {
    // Before they are measured.
    let visible = |row: &Vec<String>| row.iter().map(|cell| escaped(cell).into_owned()).collect();
    let table: Vec<Vec<String>> = table.iter().map(visible).collect();
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &table {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        output::line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
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
    fn columns_that_no_run_has_are_left_out() {
        let table = table(&[run("a", "", Some(0.25)), run("b", "", None)]);
        assert_eq!(table[0], ["run", "epochs", "train", "test"]);
        assert_eq!(table[1], ["a", "3", "50.00 %", "25.00 %"]);
        assert_eq!(table[2], ["b", "3", "50.00 %", "–"]);
    }
}
