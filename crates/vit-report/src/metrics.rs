//! What a run wrote into its `metrics.jsonl`: one JSON object a line.
//!
//! Only what the figures show is read. Other keys, and lines of other kinds, are left to whoever
//! knows them.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek};
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use vit_files::{lines_of_at_most, open_file};

use crate::error::Error;

/// The lines of one run, in the order they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// The lines of kind `step`.
    pub steps: Vec<Step>,
    /// The lines of kind `epoch`.
    pub epochs: Vec<Epoch>,
}

/// What is told every so many steps.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Step {
    /// The step, from 1, over all epochs.
    pub step: u64,
    /// The mean loss since the line before; NaN where it was not finite, which JSON cannot tell.
    #[serde(deserialize_with = "finite_or_nan")]
    pub loss: f64,
    /// The learning rate, where it is told.
    pub lr: Option<f64>,
}

/// What is told after each epoch.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Epoch {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The fraction of training images that were recognised, over the epoch.
    pub train_accuracy: f64,
    /// The fraction of test images that were recognised after it, where they were looked at.
    pub test_accuracy: Option<f64>,
    /// The same of the validation images.
    pub val_accuracy: Option<f64>,
    /// The mean loss of a training image over the epoch.
    pub train_loss: Option<f64>,
    /// The mean loss of a test image after it.
    pub test_loss: Option<f64>,
    /// The same of a validation image.
    pub val_loss: Option<f64>,
    /// Images trained on in a second.
    pub images_per_second: Option<f64>,
    /// How long the epoch took.
    pub seconds: Option<f64>,
}

/// Bytes of a line: parsed, it takes many times that. No record has a hundredth.
pub(crate) const LONGEST_LINE: u64 = 1 << 16;

/// A longer file is looked at once before any of it is kept: in memory it may be more than on the disk.
const TRUSTED: u64 = 4 << 20;

/// Reads a `metrics.jsonl`.
///
/// A last line that is still being written, and so is neither whole nor ended, is left out.
///
/// # Errors
/// If the file cannot be read, or a line is not one of metrics; then with the line's number.
pub fn read(path: &Path) -> Result<Metrics, Error> {
    let unreadable = |source| Error::Io { operation: "read", path: path.to_owned(), source };
    let file = open_file(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() > TRUSTED {
        read_lines(&file, path, |_| ())?;
        (&file).rewind().map_err(unreadable)?;
    }
    let mut metrics = Metrics::default();
    read_lines(&file, path, |line| match line {
        Line::Step(step) => metrics.steps.push(step),
        Line::Epoch(epoch) => metrics.epochs.push(epoch),
        Line::Other => {}
    })?;
    Ok(metrics)
}

fn read_lines(file: &File, path: &Path, mut take: impl FnMut(Line)) -> Result<(), Error> {
    for (index, line) in lines_of_at_most(LONGEST_LINE, BufReader::new(file)).enumerate() {
        let (line, parsed) = match line {
            Ok(line) => {
                let parsed = serde_json::from_slice(&line);
                (line, parsed)
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                (b"a longer one".to_vec(), Err(serde_json::Error::custom(error)))
            }
            Err(source) => {
                return Err(Error::Io { operation: "read", path: path.to_owned(), source });
            }
        };
        match parsed {
            Ok(line) => take(line),
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

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Step(Step),
    Epoch(Epoch),
    #[serde(other)]
    Other,
}

fn finite_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use std::fs;

    fn read_text(text: &str) -> Result<Metrics, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, text).unwrap();
        read(&path)
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
        assert_eq!(metrics.steps, [Step { step: 100, loss: 2.25, lr: Some(3e-4) }]);
        let epoch = |epoch, train_accuracy, test_accuracy, seconds| Epoch {
            epoch,
            train_accuracy,
            test_accuracy,
            seconds,
            ..Epoch::default()
        };
        assert_eq!(
            metrics.epochs,
            [epoch(1, 0.5, Some(0.75), Some(3.0)), epoch(2, 1.0, None, None)]
        );
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
        let error = read(Path::new("no-run/metrics.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no-run/metrics.jsonl");
    }
}
