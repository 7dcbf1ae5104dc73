//! The records of `metrics.jsonl`, one JSON object a line, and their reader.

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
    /// A step record.
    Step(StepMetrics),
    /// An epoch record.
    Epoch(EpochMetrics),
    /// A line of another program or version.
    #[serde(other, skip_serializing)]
    Other,
}

/// Metrics of the steps since the previous record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The last of these steps, from 1 over the whole run.
    pub step: u64,
    /// Its epoch, from 1.
    #[serde(default)]
    pub epoch: u64,
    /// Mean loss of a sample over these steps; NaN if it was not finite, which JSON cannot express.
    #[serde(deserialize_with = "finite_or_nan")]
    pub loss: f64,
    /// Learning rate of the last of these steps; NaN if the file lacks it.
    #[serde(default = "missing", deserialize_with = "finite_or_nan")]
    pub lr: f64,
}

/// Metrics of an epoch. Accuracies are fractions; a missing or non-finite number is NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: u64,
    /// Its last step.
    #[serde(default)]
    pub step: u64,
    /// Mean loss of a training sample over the epoch, in training mode.
    #[serde(default = "missing", deserialize_with = "finite_or_nan")]
    pub train_loss: f64,
    /// Share of training samples classified correctly over the epoch, in training mode. For mixed samples, the label
    /// with the larger weight counts.
    pub train_accuracy: f64,
    /// Mean loss of a validation sample after the epoch, if there is a validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Share of validation samples classified correctly after the epoch, if there is a validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    /// Mean loss of a test sample after the epoch, if it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss: Option<f64>,
    /// Share of test samples classified correctly after the epoch, if it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// Training throughput in images/s over the epoch's loop: includes batching, optimiser and logging, but not
    /// evaluation. NaN if every sample was trained on before a resume.
    #[serde(default = "missing", deserialize_with = "finite_or_nan")]
    pub images_per_second: f64,
    /// Seconds of the epoch's loop in which training waited for batches; part of the time in `images_per_second`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_seconds: Option<f64>,
    /// Seconds of the epoch's loop and evaluation.
    #[serde(default = "missing", deserialize_with = "finite_or_nan")]
    pub seconds: f64,
}

impl Default for EpochMetrics {
    /// All metrics missing.
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

const fn missing() -> f64 {
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

/// Longest line in bytes, a hundred times any record: parsed JSON takes many times its size.
pub const LONGEST_LINE: u64 = 1 << 16;

/// A longer file is checked completely before any of it is kept, because it may need more memory than its size.
const TRUSTED: u64 = 4 << 20;

/// Reads a `metrics.jsonl` with [`read_records`].
///
/// # Errors
/// Same as [`read_records`].
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

/// Passes the records of a `metrics.jsonl` to `take`, one after another. Skips a last line that is still being written:
/// incomplete and without a line end.
///
/// # Errors
/// If the file cannot be read, or a line is malformed; the error has the line's number.
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
            // Only the last line can lack a line end.
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

/// Characters of a malformed line shown in an error.
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
    fn steps_and_epochs_are_read_and_other_lines_skipped() {
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
    fn a_non_finite_loss_is_nan() {
        let metrics = read_text(r#"{"kind":"step","step":1,"epoch":1,"loss":null}"#).unwrap();
        assert!(metrics.steps[0].loss.is_nan());
    }

    #[test]
    fn a_malformed_line_is_named_by_its_number() {
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
    fn a_line_still_being_written_is_skipped() {
        for len in 1..STEP.len() {
            let metrics = read_text(&format!("{STEP}\n{}", &STEP[..len])).unwrap();
            assert_eq!(metrics.steps.len(), 1);
            read_text(&format!("{}\n{STEP}\n", &STEP[..len])).unwrap_err();
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_metrics(Path::new("no-run/metrics.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no-run/metrics.jsonl");
    }
}
