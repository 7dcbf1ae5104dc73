//! `compare.html`: the curves of several runs in the same charts.

use vit_run::{EpochMetrics, Metrics};

use crate::chart::{Colour, Legend, Marks, Series, Stroke};
use crate::escape::escape;
use crate::page::{page, section};
use crate::report::{by_epoch, finite, of_epochs};

/// Runs to compare.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// In the order of the colours.
    pub runs: Vec<ComparedRun>,
    /// The results: a heading, then a row a run.
    pub table: Vec<Vec<String>>,
    /// The differing settings: a heading, then a row a setting.
    pub differences: Vec<Vec<String>>,
}

/// A run in a comparison.
#[derive(Clone, Debug, Default)]
pub struct ComparedRun {
    /// Its name.
    pub name: String,
    /// Its metrics.
    pub metrics: Metrics,
}

/// Colours of the runs; further runs reuse them with the next dash pattern.
const COLOURS: [Colour; 8] = [
    Colour::Blue,
    Colour::Orange,
    Colour::Green,
    Colour::Purple,
    Colour::Red,
    Colour::Teal,
    Colour::Pink,
    Colour::Muted,
];
const STROKES: [Stroke; 3] = [Stroke::Solid, Stroke::Dashed, Stroke::Dotted];

/// A page with the tables and the curves of all runs.
#[must_use]
pub fn comparison_page(comparison: &Comparison) -> String {
    let title = format!("{} runs compared", comparison.runs.len());
    let body = [
        format!("<h1>{title}</h1>\n"),
        table(&comparison.table),
        section("Curves", &curves(&comparison.runs)),
        match &comparison.differences[..] {
            [] | [_] => String::new(),
            differences => section("Settings that differ", &table(differences)),
        },
    ];
    page(&title, &body.concat())
}

fn curves(runs: &[ComparedRun]) -> String {
    type Value = fn(&EpochMetrics) -> Option<f64>;
    let percent: [(&'static str, Value); 3] = [
        ("Training accuracy", |epoch| Some(100.0 * epoch.train_accuracy)),
        ("Validation accuracy", |epoch| Some(100.0 * epoch.val_accuracy?)),
        ("Test accuracy", |epoch| Some(100.0 * epoch.test_accuracy?)),
    ];
    let loss: [(&'static str, Value); 3] = [
        ("Training loss", |epoch| finite(epoch.train_loss)),
        ("Validation loss", |epoch| epoch.val_loss),
        ("Test loss", |epoch| epoch.test_loss),
    ];
    let pairs = percent.into_iter().zip(loss);
    let charts = pairs.flat_map(|((accuracy_title, accuracy), (loss_title, loss))| {
        let of_all = |title, label, value: Value| by_epoch(title, label, series(runs, value));
        [of_all(accuracy_title, "accuracy (%)", accuracy), of_all(loss_title, "loss", loss)]
    });
    let figures: String = charts.filter_map(|chart| chart.figure(Legend::Elsewhere)).collect();
    if figures.is_empty() {
        return figures;
    }
    let legend: String = series(runs, |_| None).iter().rev().map(Series::entry).collect();
    format!("<div class=\"legend\">{legend}</div>\n<div class=\"charts\">\n{figures}</div>\n")
}

/// A line for each run.
fn series(runs: &[ComparedRun], value: impl Fn(&EpochMetrics) -> Option<f64>) -> Vec<Series> {
    let line = |(at, run): (usize, &ComparedRun)| Series {
        name: run.name.clone().into(),
        colour: COLOURS[at % COLOURS.len()],
        stroke: STROKES[at / COLOURS.len() % STROKES.len()],
        marks: Marks::Line,
        points: of_epochs(&run.metrics, &value),
    };
    // Drawn in reverse, so that the first run is on top.
    runs.iter().enumerate().rev().map(line).collect()
}

/// A table whose first row is the heading.
fn table(rows: &[Vec<String>]) -> String {
    let row = |(at, row): (usize, &Vec<String>)| {
        let tag = if at == 0 { "th" } else { "td" };
        let cell = |(column, cell): (usize, &String)| {
            let class = if column == 0 { " class=\"name\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escape(cell))
        };
        format!("<tr>{}</tr>\n", row.iter().enumerate().map(cell).collect::<String>())
    };
    let rows: String = rows.iter().enumerate().map(row).collect();
    format!("<div class=\"scroll\"><table class=\"table\">\n{rows}</table></div>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, accuracies: &[f64]) -> ComparedRun {
        let epoch = |(at, &train_accuracy): (usize, &f64)| EpochMetrics {
            epoch: at as u64 + 1,
            train_accuracy,
            ..EpochMetrics::default()
        };
        let epochs = accuracies.iter().enumerate().map(epoch).collect();
        ComparedRun { name: name.to_owned(), metrics: Metrics { epochs, ..Metrics::default() } }
    }

    #[test]
    fn runs_get_lines_and_colours_in_the_order_given() {
        let runs = [run("runs/<a>", &[0.5, 0.75]), run("runs/b", &[0.25])];
        let drawn = curves(&runs);
        let (a, b) = (drawn.find("runs/&lt;a&gt;").unwrap(), drawn.find("runs/b").unwrap());
        assert!(a < b && drawn.contains("swatch blue") && drawn.contains("swatch orange"));
        // No run has a loss or a test accuracy.
        assert_eq!(drawn.matches("<figure").count(), 1);
    }

    #[test]
    fn more_runs_than_colours_differ_in_dash_pattern() {
        let runs: Vec<_> = (0..30).map(|at| run(&at.to_string(), &[0.5, 0.6])).collect();
        let drawn = curves(&runs);
        let classes = |line: &str| line.split('"').next().unwrap().to_owned();
        let lines: Vec<_> = drawn.split("<polyline class=\"").skip(1).map(classes).collect();
        assert_eq!(lines.len(), 30);
        let distinct: std::collections::BTreeSet<_> = lines.iter().collect();
        assert_eq!(distinct.len(), 24);
        assert!(drawn.contains("swatch blue dashed") && drawn.contains("swatch muted dotted"));
    }

    #[test]
    fn equal_settings_have_no_section() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let mut comparison = Comparison {
            runs: vec![run("a", &[0.5])],
            table: vec![row(["run", "test"]), row(["a", "50 %"])],
            differences: vec![row(["setting", "a"])],
        };
        let page = comparison_page(&comparison);
        assert!(page.contains("<td>50 %</td>") && !page.contains("Settings that differ"));
        comparison.differences.push(row(["train.seed", "1"]));
        let page = comparison_page(&comparison);
        assert!(page.contains("<td class=\"name\">train.seed</td>"));
    }
}
