//! What is recorded of a run: `metrics.jsonl`, one object a line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// Some steps.
    Step(StepMetrics),
    /// An epoch.
    Epoch(EpochMetrics),
}

/// What the steps since the last such record gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The last of these steps, from 1 over the whole run.
    pub step: u64,
    /// Its epoch, from 1.
    pub epoch: u64,
    /// Mean loss of a sample over these steps.
    pub loss: f64,
    /// Learning rate of the last of these steps.
    pub lr: f64,
}

/// What an epoch gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The last step of it.
    pub step: u64,
    /// Mean loss of a training sample over the epoch, in training mode.
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
    /// Mean loss of a test sample after the epoch.
    pub test_loss: f64,
    /// Share of test samples classified right after the epoch.
    pub test_accuracy: f64,
    /// Samples trained on a second of the epoch's loop: with batching, optimiser and logging, without
    /// evaluation.
    pub images_per_second: f64,
    /// Seconds of the epoch's loop and evaluation.
    pub seconds: f64,
}

/// `metrics.jsonl`, being written.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// A new file.
    ///
    /// # Errors
    /// If it exists, or cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a line, with one write, so that a reader sees whole lines.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, record: &Record) -> Result<(), Error> {
        let mut line = serde_json::to_string(record).expect("a record is plain data");
        line.push('\n');
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_lines_of_json_with_their_kind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::create(&path).expect("a writable folder");
        let record = Record::Step(StepMetrics { step: 1, epoch: 1, loss: 2.5, lr: 3e-4 });
        file.append(&record).expect("a writable file");
        let text = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(text, "{\"kind\":\"step\",\"step\":1,\"epoch\":1,\"loss\":2.5,\"lr\":0.0003}\n");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("as written"), record);
        assert!(MetricsFile::create(&path).is_err());
    }
}
