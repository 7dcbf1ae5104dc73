//! The schema of `metrics.jsonl`, one object a line, and its reader.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek};
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use vit_files::{lines_of_at_most, open_file};

use crate::Error;

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// Some steps.
    Step(StepMetrics),
    /// An epoch.
    Epoch(EpochMetrics),
    /// A line of another program or version.
    #[serde(other, skip_serializing)]
    Other,
}

/// What the steps since the last such record gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The last of these steps, from 1 over the whole run.
    pub step: u64,
    /// Its epoch, from 1.
    #[serde(default)]
    pub epoch: u64,
    /// Mean loss of a sample over these steps; NaN where it was not finite, which JSON cannot say.
    #[serde(deserialize_with = "finite_or_nan")]
    pub loss: f64,
    /// Learning rate of the last of these steps; NaN where a file does not have it.
    #[serde(default = "not_told", deserialize_with = "finite_or_nan")]
    pub lr: f64,
}

/// What an epoch gave. Accuracies are fractions; a number that a file does not have, or that was not finite, is NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The last step of it.
    #[serde(default)]
    pub step: u64,
    /// Mean loss of a training sample over the epoch, in training mode.
    #[serde(default = "not_told", deserialize_with = "finite_or_nan")]
    pub train_loss: f64,
    /// Share of training samples classified right over the epoch, in training mode; of mixed ones, by the label of the
    /// larger share.
    pub train_accuracy: f64,
    /// Mean loss of a validation sample after the epoch, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Share of validation samples classified right after the epoch, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    /// Mean loss of a test sample after the epoch, where they were evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss: Option<f64>,
    /// Share of test samples classified right after the epoch, where they were evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// Samples trained on a second of the epoch's loop: with batching, optimiser and logging, without evaluation. None of
    /// them where all had been trained on before the run was resumed.
    #[serde(default = "not_told", deserialize_with = "finite_or_nan")]
    pub images_per_second: f64,
    /// Seconds of the epoch's loop in which training waited for batches; part of what `images_per_second` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_seconds: Option<f64>,
    /// Seconds of the epoch's loop and evaluation.
    #[serde(default = "not_told", deserialize_with = "finite_or_nan")]
    pub seconds: f64,
}

impl Default for EpochMetrics {
    /// Nothing is told.
    fn default() -> Self {
        Self {
            epoch: 0,
            step: 0,
            train_loss: f64::NAN,
            train_accuracy: 0.0,
            val_loss: None,
            val_accuracy: None,
            test_loss: None,
            test_accuracy: None,
            images_per_second: f64::NAN,
            waiting_seconds: None,
            seconds: f64::NAN,
        }
    }
}

const fn not_told() -> f64 {
    f64::NAN
}

fn finite_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The records of a run, in the order they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// The lines of kind `step`.
    pub steps: Vec<StepMetrics>,
    /// The lines of kind `epoch`.
    pub epochs: Vec<EpochMetrics>,
}

/// The most bytes of a line. Parsed, it takes many times that; no record has a hundredth of it.
pub const LONGEST_LINE: u64 = 1 << 16;

/// A longer file is checked once before any of it is kept: in memory it may be more than on the disk.
const TRUSTED: u64 = 4 << 20;

/// Reads a `metrics.jsonl`, as [`read_records`] does.
///
/// # Errors
/// As [`read_records`].
pub fn read_metrics(path: &Path) -> Result<Metrics, Error> {
    let unreadable = |source| vit_files::Error::io("read", path)(source);
    let file = open_file(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() > TRUSTED {
        read_lines(&file, path, |_| ())?;
        (&file).rewind().map_err(unreadable)?;
    }
    let mut metrics = Metrics::default();
    read_lines(&file, path, |record| match record {
        Record::Step(step) => metrics.steps.push(step),
        Record::Epoch(epoch) => metrics.epochs.push(epoch),
        Record::Other => {}
    })?;
    Ok(metrics)
}

/// Gives the records of a `metrics.jsonl`, one after the other. A last line that is still being written, and so is neither
/// whole nor ended, is left out.
///
/// # Errors
/// If the file cannot be read, or a line is not one of metrics; then with the line's number.
pub fn read_records(path: &Path, take: impl FnMut(Record)) -> Result<(), Error> {
    let file = open_file(path).map_err(vit_files::Error::io("read", path))?;
    read_lines(&file, path, take)
}

fn read_lines(file: &File, path: &Path, mut take: impl FnMut(Record)) -> Result<(), Error> {
    for (index, line) in lines_of_at_most(LONGEST_LINE, BufReader::new(file)).enumerate() {
        let (line, parsed) = match line {
            Ok(line) => {
                let parsed = serde_json::from_slice(&line);
                (line, parsed)
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                (b"a longer one".to_vec(), Err(serde_json::Error::custom(error)))
            }
            Err(source) => return Err(vit_files::Error::io("read", path)(source).into()),
        };
        match parsed {
            Ok(record) => take(record),
            // Only a last line is without an end.
            Err(error) if error.is_eof() && !line.ends_with(b"\n") => {}
            Err(source) => {
                let line = String::from_utf8_lossy(&line);
                let got = line.trim_end().chars().take(SHOWN).collect();
                return Err(Error::Line { path: path.to_owned(), line: index + 1, got, source });
            }
        }
    }
    Ok(())
}

/// How much of a wrong line an error shows, in characters.
const SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use std::fs;

    fn read_text(text: &str) -> Result<Metrics, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, text).unwrap();
        read_metrics(&path)
    }

    const STEP: &str = r#"{"kind":"step","step":100,"epoch":1,"loss":2.31,"lr":3e-4}"#;

    #[test]
    fn steps_and_epochs_are_read_and_the_rest_is_left() {
        let metrics = read_text(concat!(
            r#"{"kind":"step","step":100,"epoch":1,"loss":2.25,"lr":3e-4}"#,
            "\n",
            r#"{"kind":"saved","path":"checkpoints/step-000100"}"#,
            "\r\n",
            r#"{"epoch":1,"train_accuracy":0.5,"test_accuracy":0.75,"kind":"epoch","seconds":3}"#,
            "\n",
            r#"{"kind":"epoch","epoch":2,"train_accuracy":1,"test_accuracy":null}"#,
        ));
        let metrics = metrics.unwrap();
        assert_eq!(metrics.steps, [StepMetrics { step: 100, epoch: 1, loss: 2.25, lr: 3e-4 }]);
        let known = metrics.epochs.iter().map(|epoch| {
            (epoch.epoch, epoch.train_accuracy, epoch.test_accuracy, epoch.seconds.to_bits())
        });
        let nan = f64::NAN.to_bits();
        let expected = [(1, 0.5, Some(0.75), 3.0_f64.to_bits()), (2, 1.0, None, nan)];
        assert_eq!(known.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_loss_that_is_not_finite_is_nan() {
        let metrics = read_text(r#"{"kind":"step","step":1,"epoch":1,"loss":null}"#).unwrap();
        assert!(metrics.steps[0].loss.is_nan());
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number() {
        let error = read_text(&format!("{STEP}\n{{\"kind\":\"step\"}}\n")).unwrap_err();
        let message = error.to_string();
        let end = r#"metrics.jsonl:2: expected a line of metrics, got "{\"kind\":\"step\"}""#;
        assert!(message.ends_with(end), "{message}");
        assert!(error.source().unwrap().to_string().starts_with("missing field `step`"));
        let blank = read_text(&format!("{STEP}\n\n{STEP}\n")).unwrap_err().to_string();
        assert!(
            blank.ends_with(r#"metrics.jsonl:2: expected a line of metrics, got """#),
            "{blank}"
        );
    }

    #[test]
    fn a_line_that_is_still_being_written_is_left_out() {
        for len in 1..STEP.len() {
            let metrics = read_text(&format!("{STEP}\n{}", &STEP[..len])).unwrap();
            assert_eq!(metrics.steps.len(), 1);
            read_text(&format!("{}\n{STEP}\n", &STEP[..len])).unwrap_err();
        }
    }

    #[test]
    fn an_absent_file_is_named() {
        let error = read_metrics(Path::new("no-run/metrics.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no-run/metrics.jsonl");
    }
}
