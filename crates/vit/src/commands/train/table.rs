//! Reports epochs: as table rows in a terminal, as sentences in JSON logs.

use vit_run::EpochMetrics;

use crate::columns::Columns;
use crate::interrupt;
use crate::logging;
use crate::output::{percent, thousands};
use crate::terminal::stderr;

/// The table of epochs.
pub(super) struct Table {
    /// Epochs of the whole run, as far as known.
    epochs: u64,
    /// Set once the headings are printed.
    columns: Option<Columns>,
    /// Whether the next epoch is the best so far on the validation split.
    is_best: bool,
}

impl Table {
    pub(super) const fn new(epochs: u64) -> Self {
        Self { epochs, columns: None, is_best: false }
    }

    /// Marks the next epoch as the best.
    pub(super) const fn mark(&mut self) {
        self.is_best = true;
    }

    pub(super) fn tell(&mut self, epoch: &EpochMetrics) {
        if logging::is_for_machines() {
            tracing::info!("{}", sentence(epoch, self.epochs));
            return;
        }
        let cells = cells(epoch, self.epochs, std::mem::take(&mut self.is_best));
        if self.columns.is_none() {
            let columns = Columns::fitted(
                cells.iter().map(|(heading, cell)| least_width(heading, cell)).collect(),
                stderr::size().map(|(width, _)| width.into()),
            );
            let headings: Vec<&str> = cells.iter().map(|(heading, _)| *heading).collect();
            tracing::info!("{}", columns.line(&headings));
            self.columns = Some(columns);
        }
        if let Some(columns) = &self.columns {
            let cells: Vec<&str> = cells.iter().map(|(_, cell)| cell.as_str()).collect();
            tracing::info!("{}", columns.line(&cells));
        }
        if interrupt::asked() {
            tracing::info!("epoch {} covers the steps up to {}", epoch.epoch, epoch.step);
        }
    }
}

/// Width of a column's widest possible cell.
fn least_width(heading: &str, cell: &str) -> usize {
    let least = match heading {
        "images/s" => "1,000,000".len(),
        _ if heading.ends_with("loss") => "10.0000".len(),
        "val" => "100.00 %*".len(),
        "train" | "test" => "100.00 %".len(),
        _ => 0,
    };
    least.max(heading.len()).max(cell.chars().count())
}

/// Headings and cells, most important first. The best validation accuracy so far has a star.
fn cells(epoch: &EpochMetrics, epochs: u64, is_best: bool) -> Vec<(&'static str, String)> {
    let loss = |loss: f64| format!("{loss:.4}");
    let star = if is_best { "*" } else { " " };
    let speed = epoch.images_per_second as u64;
    // The first row is as wide as the last.
    let width = epochs.to_string().len();
    let cells = [
        ("epoch", Some(format!("{:>width$}/{epochs}", epoch.epoch))),
        ("loss", Some(loss(epoch.train_loss))),
        ("train", Some(percent(epoch.train_accuracy))),
        ("val", epoch.val_accuracy.map(|accuracy| percent(accuracy) + star)),
        ("test", epoch.test_accuracy.map(percent)),
        ("val loss", epoch.val_loss.map(loss)),
        ("test loss", epoch.test_loss.map(loss)),
        ("images/s", (speed > 0).then(|| thousands(speed))),
    ];
    cells.into_iter().filter_map(|(heading, cell)| Some((heading, cell?))).collect()
}

fn sentence(epoch: &EpochMetrics, epochs: u64) -> String {
    let validated = epoch
        .val_loss
        .zip(epoch.val_accuracy)
        .map(|(loss, accuracy)| format!("; validation loss {loss:.4}, {}", percent(accuracy)));
    let tested = epoch
        .test_loss
        .zip(epoch.test_accuracy)
        .map(|(loss, accuracy)| format!("; test loss {loss:.4}, {}", percent(accuracy)));
    let so_far = interrupt::asked().then(|| format!(", up to step {}", epoch.step));
    let speed = epoch.images_per_second as u64;
    let speed = (speed > 0).then(|| format!("; {} images/s", thousands(speed)));
    format!(
        "epoch {}/{epochs}{}: loss {:.4}, {}{}{}{}",
        epoch.epoch,
        so_far.unwrap_or_default(),
        epoch.train_loss,
        percent(epoch.train_accuracy),
        validated.unwrap_or_default(),
        tested.unwrap_or_default(),
        speed.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(available: Option<usize>) -> Vec<String> {
        let epoch = |epoch, accuracy| EpochMetrics {
            epoch,
            train_loss: 0.12345,
            train_accuracy: accuracy,
            val_loss: Some(0.2),
            val_accuracy: Some(accuracy),
            test_loss: Some(0.3),
            test_accuracy: Some(accuracy),
            images_per_second: 41_203.0,
            ..EpochMetrics::default()
        };
        let rows = [cells(&epoch(9, 0.975), 10, true), cells(&epoch(10, 0.097), 10, false)];
        let widths = rows[0].iter().map(|(heading, cell)| least_width(heading, cell)).collect();
        let columns = Columns::fitted(widths, available);
        let headings: Vec<&str> = rows[0].iter().map(|(heading, _)| *heading).collect();
        let row = |row: &Vec<(&str, String)>| {
            columns.line(&row.iter().map(|(_, cell)| cell.as_str()).collect::<Vec<_>>())
        };
        std::iter::once(columns.line(&headings)).chain(rows.iter().map(row)).collect()
    }

    #[test]
    fn epochs_are_rows_under_headings_and_the_best_has_a_star() {
        let expected = [
            "epoch     loss     train        val      test  val loss  test loss   images/s",
            " 9/10   0.1235   97.50 %   97.50 %*   97.50 %    0.2000     0.3000     41,203",
            "10/10   0.1235    9.70 %    9.70 %     9.70 %    0.2000     0.3000     41,203",
        ];
        assert_eq!(lines(None), expected);
        assert_eq!(lines(Some(80)), expected);
    }

    #[test]
    fn narrow_terminals_keep_the_accuracies() {
        let lines = lines(Some(40));
        assert_eq!(lines[0], "epoch     loss     train        val");
        assert_eq!(lines[1], " 9/10   0.1235   97.50 %   97.50 %*");
    }
}
