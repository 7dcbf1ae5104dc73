//! A run's figures: accuracy by epoch and loss by step.

use std::fs;
use std::path::{Path, PathBuf};

use vit_run::{METRICS, Metrics, PLOTS, read_metrics};

use crate::chart::{Axis, Chart, Colour, Marks, Series, Stroke, Ticks};
use crate::error::Error;

/// Draws the figures of a run from its `metrics.jsonl` into its folder `plots`; returns their paths.
///
/// - `training-accuracy.svg`: training and, where known, test accuracy by epoch;
/// - `training-loss.svg`: training loss by step, each point the mean since the previous one.
///
/// A figure without points is not written. Existing files are replaced.
///
/// # Errors
/// If the metrics cannot be read or a figure cannot be written.
pub fn write_plots(run_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let metrics = read_metrics(&run_dir.join(METRICS))?;
    let folder = run_dir.join(PLOTS);
    fs::create_dir_all(&folder).map_err(|source| Error::Io {
        operation: "create",
        path: folder.clone(),
        source,
    })?;
    let charts =
        [("training-accuracy.svg", accuracy(&metrics)), ("training-loss.svg", loss(&metrics))];
    let mut written = Vec::new();
    for (name, chart) in charts {
        let Some(svg) = chart.svg() else { continue };
        let path = folder.join(name);
        vit_files::write_atomically(&path, svg.as_bytes())?;
        written.push(path);
    }
    Ok(written)
}

fn accuracy(metrics: &Metrics) -> Chart {
    let epochs = || metrics.epochs.iter();
    let train = epochs().map(|epoch| (epoch.epoch as f64, 100.0 * epoch.train_accuracy));
    let test =
        epochs().filter_map(|epoch| Some((epoch.epoch as f64, 100.0 * epoch.test_accuracy?)));
    let series = |name: &'static str, colour, points| Series {
        name: name.into(),
        colour,
        stroke: Stroke::Solid,
        marks: Marks::LineAndDots,
        points,
    };
    Chart {
        title: "Training accuracy",
        x: Axis { label: "epoch", ticks: Ticks::Whole },
        y: Axis { label: "accuracy (%)", ticks: Ticks::Any },
        series: vec![
            // Drawn first, and so below the training curve, which is the figure's subject.
            series("test", Colour::Muted, test.collect()),
            series("training", Colour::Blue, train.collect()),
        ],
        changes: Vec::new(),
    }
}

fn loss(metrics: &Metrics) -> Chart {
    let points = metrics.steps.iter().map(|step| (step.step as f64, step.loss)).collect();
    Chart {
        title: "Training loss",
        x: Axis { label: "step", ticks: Ticks::Whole },
        y: Axis { label: "loss", ticks: Ticks::Any },
        series: vec![Series {
            name: "training".into(),
            colour: Colour::Red,
            stroke: Stroke::Solid,
            marks: Marks::Line,
            points,
        }],
        changes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(METRICS), lines.join("\n")).unwrap();
        folder
    }

    const STEP: &str = r#"{"kind":"step","step":100,"epoch":1,"loss":2.3}"#;
    const EPOCH: &str = r#"{"kind":"epoch","epoch":1,"train_accuracy":0.5,"test_accuracy":0.6}"#;
    const UNTESTED: &str = r#"{"kind":"epoch","epoch":2,"train_accuracy":0.7}"#;

    #[test]
    fn both_figures_are_written_and_replaced() {
        let run = run(&[STEP, EPOCH, UNTESTED]);
        for _ in 0..2 {
            let written = write_plots(run.path()).unwrap();
            let names = ["training-accuracy.svg", "training-loss.svg"];
            assert_eq!(written, names.map(|name| run.path().join(PLOTS).join(name)));
            for path in written {
                assert!(fs::read_to_string(path).unwrap().ends_with("</svg>\n"));
            }
        }
    }

    #[test]
    fn both_accuracies_are_in_percent() {
        let run = run(&[STEP, EPOCH, UNTESTED]);
        let chart = accuracy(&read_metrics(&run.path().join(METRICS)).unwrap());
        let points = chart.series.iter().map(|series| series.points.clone()).collect::<Vec<_>>();
        assert_eq!(points, [vec![(1.0, 60.0)], vec![(1.0, 50.0), (2.0, 70.0)]]);
    }

    #[test]
    fn a_figure_without_points_is_not_written() {
        let run = run(&[EPOCH]);
        let written = write_plots(run.path()).unwrap();
        assert_eq!(written, [run.path().join(PLOTS).join("training-accuracy.svg")]);
    }
}
