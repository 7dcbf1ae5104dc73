//! The course of training: the last metrics, and all of them as curves.

use vit_run::{EpochMetrics, Metrics};

use crate::chart::{Axis, Chart, Colour, Legend, Marks, Series, Stroke, Ticks};
use crate::page::{percent, thousands};

/// A finite number; `None` for NaN, which stands for a missing one.
pub(crate) fn finite(number: f64) -> Option<f64> {
    Some(number).filter(|number| !number.is_nan())
}

/// The last epoch's metrics.
pub(super) fn facts(metrics: &Metrics) -> Vec<(String, String)> {
    let Some(last) = metrics.epochs.last() else { return Vec::new() };
    let seconds: f64 = metrics
        .epochs
        .iter()
        .map(|epoch| epoch.seconds)
        .filter(|seconds| seconds.is_finite())
        .sum();
    let facts = [
        ("test accuracy", last.test_accuracy.map(percent)),
        ("validation accuracy", last.val_accuracy.map(percent)),
        ("training accuracy", Some(percent(last.train_accuracy))),
        ("epochs", Some(last.epoch.to_string())),
        ("time", (seconds > 0.0).then(|| duration(seconds))),
        ("images a second", finite(last.images_per_second).map(|speed| thousands(speed as usize))),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Accuracy and loss by epoch, one chart each with all splits; then loss and learning rate by step, which mark changes
/// of settings.
pub(super) fn charts(metrics: &Metrics, changed_after: &[u64]) -> String {
    let by_step = |title, label, series| {
        let changes = changed_after.iter().map(|&step| step as f64).collect();
        Chart { changes, ..by_step(title, label, series) }
    };
    let line = |name, colour, value: &dyn Fn(&EpochMetrics) -> Option<f64>| {
        self::line(name, colour, of_epochs(metrics, value))
    };
    let percent = |share: f64| 100.0 * share;
    let mut charts = vec![
        by_epoch(
            "Accuracy",
            "accuracy (%)",
            vec![
                line("training", Colour::Blue, &|epoch| Some(percent(epoch.train_accuracy))),
                line("validation", Colour::Orange, &|epoch| epoch.val_accuracy.map(percent)),
                line("test", Colour::Green, &|epoch| epoch.test_accuracy.map(percent)),
            ],
        ),
        by_epoch(
            "Loss",
            "loss",
            vec![
                line("training", Colour::Blue, &|epoch| finite(epoch.train_loss)),
                line("validation", Colour::Orange, &|epoch| epoch.val_loss),
                line("test", Colour::Green, &|epoch| epoch.test_loss),
            ],
        ),
    ];
    let steps = || metrics.steps.iter();
    charts.push(by_step(
        "Loss of steps",
        "loss",
        Series {
            name: "loss".into(),
            colour: Colour::Red,
            stroke: Stroke::Solid,
            marks: Marks::Line,
            points: steps().map(|step| (step.step as f64, step.loss)).collect(),
        },
    ));
    charts.push(by_step(
        "Learning rate",
        "",
        Series {
            name: "learning rate".into(),
            colour: Colour::Purple,
            stroke: Stroke::Solid,
            marks: Marks::Line,
            points: steps().filter_map(|step| Some((step.step as f64, finite(step.lr)?))).collect(),
        },
    ));
    let figures: String =
        charts.into_iter().filter_map(|chart| chart.figure(Legend::Above)).collect();
    if figures.is_empty() { figures } else { format!("<div class=\"charts\">\n{figures}</div>\n") }
}

/// One metric of every epoch that has it.
pub(crate) fn of_epochs(
    metrics: &Metrics,
    value: impl Fn(&EpochMetrics) -> Option<f64>,
) -> Vec<(f64, f64)> {
    metrics.epochs.iter().filter_map(|epoch| Some((epoch.epoch as f64, value(epoch)?))).collect()
}

/// A line, with dots unless they would overlap.
fn line(name: &'static str, colour: Colour, points: Vec<(f64, f64)>) -> Series {
    let marks = if points.len() <= 30 { Marks::LineAndDots } else { Marks::Line };
    Series { name: name.into(), colour, stroke: Stroke::Solid, marks, points }
}

pub(crate) fn by_epoch(title: &'static str, label: &'static str, series: Vec<Series>) -> Chart {
    Chart {
        title,
        x: Axis { label: "epoch", ticks: Ticks::Whole },
        y: Axis { label, ticks: Ticks::Any },
        series,
        changes: Vec::new(),
    }
}

fn by_step(title: &'static str, label: &'static str, series: Series) -> Chart {
    Chart {
        title,
        x: Axis { label: "step", ticks: Ticks::Whole },
        y: Axis { label, ticks: Ticks::Any },
        series: vec![series],
        changes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use vit_run::StepMetrics;

    use super::*;

    #[test]
    fn each_number_is_in_one_chart() {
        let epoch = EpochMetrics {
            test_accuracy: Some(0.5),
            val_loss: Some(1.0),
            ..EpochMetrics::default()
        };
        let charts = charts(&Metrics { epochs: vec![epoch], ..Metrics::default() }, &[]);
        let titles: Vec<&str> =
            charts.split("<b>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
        assert_eq!(titles, ["Accuracy", "Loss"]);
        // No epoch has a training loss or test metrics.
        assert_eq!(charts.matches("class=\"series\"").count(), 3);
    }

    #[test]
    fn changed_settings_are_marked_between_the_steps_around_them() {
        let step = |step| StepMetrics { step, epoch: 1, loss: 1.0, lr: 0.1 };
        let metrics = Metrics { steps: vec![step(1), step(50), step(60)], ..Metrics::default() };
        let charts = charts(&metrics, &[50, 60]);
        assert_eq!(charts.matches("settings changed after step 50").count(), 2);
        assert!(!charts.contains("after step 60"));
    }

    #[test]
    fn shorter_durations_have_finer_units() {
        assert_eq!(duration(3.21), "3.2 s");
        assert_eq!(duration(75.0), "1 min 15 s");
        assert_eq!(duration(7_500.0), "2 h 5 min");
    }
}
