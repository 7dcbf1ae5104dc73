//! How training went: the last figures, and all of them as curves.

use vit_run::{EpochMetrics, Metrics};

use crate::chart::{Axis, Chart, Colour, Legend, Marks, Series, Stroke, Ticks};
use crate::page::{percent, thousands};

/// A number that the file has.
pub(crate) fn told(number: f64) -> Option<f64> {
    Some(number).filter(|number| !number.is_nan())
}

/// The last epoch's figures.
pub(super) fn facts(metrics: &Metrics) -> Vec<(String, String)> {
    let Some(last) = metrics.epochs.last() else { return Vec::new() };
    let seconds: f64 =
        metrics.epochs.iter().map(|epoch| epoch.seconds).filter(|told| told.is_finite()).sum();
    let facts = [
        ("test accuracy", last.test_accuracy.map(percent)),
        ("validation accuracy", last.val_accuracy.map(percent)),
        ("training accuracy", Some(percent(last.train_accuracy))),
        ("epochs", Some(last.epoch.to_string())),
        ("time", (seconds > 0.0).then(|| duration(seconds))),
        ("images a second", told(last.images_per_second).map(|speed| thousands(speed as usize))),
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

/// The seed's two first, then those of the images that were not trained on, then what each step tells.
pub(super) fn charts(metrics: &Metrics) -> String {
    let accuracy = |title, series| by_epoch(title, "accuracy (%)", series);
    let loss = |title, series| by_epoch(title, "loss", series);
    let train_accuracy = || of_epochs(metrics, |epoch| Some(100.0 * epoch.train_accuracy));
    let test_accuracy = of_epochs(metrics, |epoch| Some(100.0 * epoch.test_accuracy?));
    let val_accuracy = of_epochs(metrics, |epoch| Some(100.0 * epoch.val_accuracy?));
    let train_loss = || of_epochs(metrics, |epoch| told(epoch.train_loss));
    let test_loss = of_epochs(metrics, |epoch| epoch.test_loss);
    let val_loss = of_epochs(metrics, |epoch| epoch.val_loss);
    let mut charts = vec![
        accuracy("Training accuracy", vec![line("training", Colour::Blue, train_accuracy())]),
        loss("Training loss", vec![line("training", Colour::Red, train_loss())]),
    ];
    for (held_out, accuracies, losses) in [
        (("test", "Test accuracy", "Test loss"), test_accuracy, test_loss),
        (("validation", "Validation accuracy", "Validation loss"), val_accuracy, val_loss),
    ] {
        let (name, accuracy_title, loss_title) = held_out;
        for (title, points, beside, make) in [
            (accuracy_title, accuracies, train_accuracy(), &accuracy as &dyn Fn(_, _) -> Chart),
            (loss_title, losses, train_loss(), &loss),
        ] {
            if !points.is_empty() {
                let beside = line("training", Colour::Muted, beside);
                charts.push(make(title, vec![beside, line(name, Colour::Green, points)]));
            }
        }
    }
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
            points: steps().filter_map(|step| Some((step.step as f64, told(step.lr)?))).collect(),
        },
    ));
    let figures: String =
        charts.into_iter().filter_map(|chart| chart.figure(Legend::Above)).collect();
    if figures.is_empty() { figures } else { format!("<div class=\"charts\">\n{figures}</div>\n") }
}

/// A value of every epoch that has it.
pub(crate) fn of_epochs(
    metrics: &Metrics,
    value: impl Fn(&EpochMetrics) -> Option<f64>,
) -> Vec<(f64, f64)> {
    metrics.epochs.iter().filter_map(|epoch| Some((epoch.epoch as f64, value(epoch)?))).collect()
}

/// A line with dots where they do not run into one another.
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
    }
}

fn by_step(title: &'static str, label: &'static str, series: Series) -> Chart {
    Chart {
        title,
        x: Axis { label: "step", ticks: Ticks::Whole },
        y: Axis { label, ticks: Ticks::Any },
        series: vec![series],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_two_curves_come_first() {
        let epoch = EpochMetrics {
            test_accuracy: Some(0.5),
            val_loss: Some(1.0),
            ..EpochMetrics::default()
        };
        let charts = charts(&Metrics { epochs: vec![epoch], ..Metrics::default() });
        let titles: Vec<&str> =
            charts.split("<b>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
        // No epoch told a loss in training, or of the test.
        assert_eq!(titles, ["Training accuracy", "Test accuracy", "Validation loss"]);
    }

    #[test]
    fn durations_are_as_fine_as_they_are_short() {
        assert_eq!(duration(3.21), "3.2 s");
        assert_eq!(duration(75.0), "1 min 15 s");
        assert_eq!(duration(7_500.0), "2 h 5 min");
    }
}
