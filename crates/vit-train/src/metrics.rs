//! What is recorded of a run: `metrics.jsonl`, one object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vit_files::{Digest, Hasher, lines_of_at_most, open_file};

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
    /// Mean loss of a test sample after the epoch, where it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss: Option<f64>,
    /// Share of test samples classified right after the epoch, where it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// Samples trained on a second of the epoch's loop: with batching, optimiser and logging, without
    /// evaluation. None of them where all had been trained on before the run was taken up again.
    pub images_per_second: f64,
    /// Seconds of the epoch's loop and evaluation.
    pub seconds: f64,
}

/// Up to where a run's metrics have been written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsMark {
    /// Bytes.
    pub bytes: u64,
    /// The SHA-256 of those.
    pub sha256: String,
}

impl Default for MetricsMark {
    /// Nothing has been written.
    fn default() -> Self {
        Self { bytes: 0, sha256: Digest::of_bytes(b"").to_string() }
    }
}

/// `metrics.jsonl`, being written.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    hasher: Hasher,
}

impl MetricsFile {
    /// The file, cut to what had been written at a mark.
    ///
    /// # Errors
    /// If it cannot be written, or what it holds is not what it held.
    pub fn open_at(path: &Path, mark: &MetricsMark) -> Result<Self, Error> {
        let unwritable = |source| Error::Write { path: path.to_owned(), source };
        open_file(path).map_err(unwritable)?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(unwritable)?;
        let hasher = held_to(mark, &file, path)?;
        file.set_len(mark.bytes).map_err(unwritable)?;
        Ok(Self { path: path.to_owned(), file, bytes: mark.bytes, hasher })
    }

    /// Holds a file to begin with what had been written at a mark.
    ///
    /// # Errors
    /// If it does not, or cannot be read.
    pub fn check(path: &Path, mark: &MetricsMark) -> Result<(), Error> {
        let unreadable =
            |error: io::Error| Error::Unreadable { path: path.to_owned(), what: error.to_string() };
        held_to(mark, &open_file(path).map_err(unreadable)?, path).map(drop)
    }

    /// Appends a line, with one write, so that a reader sees whole lines.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, record: &Record) -> Result<(), Error> {
        let mut line = serde_json::to_string(record).expect("a record is plain data");
        line.push('\n');
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.bytes += line.len() as u64;
        self.hasher.update(line.as_bytes());
        Ok(())
    }

    /// Up to where it is written.
    #[must_use]
    pub fn mark(&self) -> MetricsMark {
        MetricsMark { bytes: self.bytes, sha256: self.hasher.clone().finish().to_string() }
    }
}

/// Reads what had been written at a mark, and leaves the file's position behind it.
fn held_to(mark: &MetricsMark, file: &File, path: &Path) -> Result<Hasher, Error> {
    let unreadable = |what: String| Error::Unreadable { path: path.to_owned(), what };
    let mut hasher = Hasher::new();
    let bytes = io::copy(&mut file.take(mark.bytes), &mut hasher)
        .map_err(|error| unreadable(error.to_string()))?;
    let sha256 = hasher.clone().finish().to_string();
    if bytes == mark.bytes && sha256 == mark.sha256 {
        return Ok(hasher);
    }
    Err(unreadable(format!(
        "expected to begin with {} bytes of SHA-256 {}, got {bytes} of {sha256}",
        mark.bytes, mark.sha256
    )))
}

/// Parsed, a line takes many times its size; no record has a hundredth of this.
const LONGEST_LINE: u64 = 1 << 16;

/// The records of a file, one after the other, up to the first line that is none. An error of reading is the last.
///
/// # Errors
/// If it cannot be opened.
pub fn read_records(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Record, Error>> + use<>, Error> {
    let owned = path.to_owned();
    let unreadable =
        move |error: io::Error| Error::Unreadable { path: owned.clone(), what: error.to_string() };
    let file = open_file(path).map_err(&unreadable)?;
    let lines = lines_of_at_most(LONGEST_LINE, BufReader::new(file));
    Ok(lines.map_while(move |line| match line {
        Ok(line) => serde_json::from_slice(&line).ok().map(Ok),
        Err(error) if error.kind() == ErrorKind::InvalidData => None,
        Err(error) => Some(Err(unreadable(error))),
    }))
}

/// The epochs of a file, as [`read_records`] reads it.
///
/// # Errors
/// If it cannot be read.
pub fn read_epochs(path: &Path) -> Result<Vec<EpochMetrics>, Error> {
    let epochs = read_records(path)?.filter_map(|record| match record {
        Ok(Record::Epoch(epoch)) => Some(Ok(epoch)),
        Ok(Record::Step(_)) => None,
        Err(error) => Some(Err(error)),
    });
    epochs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path) -> Vec<Record> {
        read_records(path).expect("the file").collect::<Result<_, _>>().expect("records")
    }

    fn record(step: u64) -> Record {
        Record::Step(StepMetrics { step, epoch: 1, loss: 2.5, lr: 3e-4 })
    }

    #[test]
    fn records_are_lines_of_json_with_their_kind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        assert!(MetricsFile::open_at(&path, &MetricsMark::default()).is_err());
        std::fs::write(&path, "").expect("a writable folder");
        let mut file = MetricsFile::open_at(&path, &MetricsMark::default()).expect("the file");
        file.append(&record(1)).expect("a writable file");
        let text = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(text, "{\"kind\":\"step\",\"step\":1,\"epoch\":1,\"loss\":2.5,\"lr\":0.0003}\n");
        assert_eq!(records(&path), [record(1)]);
    }

    #[test]
    fn a_file_is_cut_to_its_mark_and_goes_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "").expect("a writable folder");
        let mut file = MetricsFile::open_at(&path, &MetricsMark::default()).expect("the file");
        file.append(&record(1)).expect("a writable file");
        let mark = file.mark();
        file.append(&record(2)).expect("a writable file");
        let mut again = MetricsFile::open_at(&path, &mark).expect("the same file");
        assert_eq!(again.mark(), mark);
        again.append(&record(3)).expect("a writable file");
        assert_eq!(records(&path), [record(1), record(3)]);
        let changed = std::fs::read_to_string(&path).expect("the file").replace("2.5", "2.6");
        std::fs::write(&path, &changed).expect("a writable folder");
        let error = MetricsFile::open_at(&path, &mark).unwrap_err().to_string();
        assert!(error.contains("expected to begin with"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), changed);
        std::fs::write(&path, "").expect("a writable folder");
        assert!(MetricsFile::open_at(&path, &mark).is_err());
    }
}
