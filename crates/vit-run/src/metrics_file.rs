//! Writing `metrics.jsonl`, and verifying it on resume.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vit_files::{Digest, Hasher, lines_of_at_most, open_file};

use crate::folder::free_name;
use crate::{Error, LONGEST_LINE, Record};

/// Length of a run's metrics at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsMark {
    /// Bytes.
    pub bytes: u64,
    /// The SHA-256 of those bytes.
    pub sha256: String,
}

impl Default for MetricsMark {
    /// An empty file.
    fn default() -> Self {
        Self { bytes: 0, sha256: Digest::of_bytes(b"").to_string() }
    }
}

/// The result of [`MetricsFile::rebuild`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The damaged file's new path; `None` if the file was missing.
    pub aside: Option<PathBuf>,
    /// The rebuilt file's length and digest.
    pub mark: MetricsMark,
}

/// A `metrics.jsonl` open for writing.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    hasher: Hasher,
}

impl MetricsFile {
    /// Opens the file and truncates it to a mark.
    ///
    /// # Errors
    /// If it cannot be written, or does not begin with the mark's bytes ([`Error::is_damage`]).
    pub fn open_at(path: &Path, mark: &MetricsMark) -> Result<Self, Error> {
        let unwritable = |source| vit_files::Error::io("write", path)(source);
        let hasher = mark.check(path)?;
        let mut file = OpenOptions::new().write(true).open(path).map_err(unwritable)?;
        file.set_len(mark.bytes).map_err(unwritable)?;
        file.seek(SeekFrom::End(0)).map_err(unwritable)?;
        Ok(Self { path: path.to_owned(), file, bytes: mark.bytes, hasher })
    }

    /// Rebuilds a damaged or missing file from the mark's bytes and every later line that is a step's record up to
    /// `last_step`. The old file is renamed to `metrics-aside.jsonl`, with a number appended if that exists.
    ///
    /// # Errors
    /// If it cannot be read or written, or does not begin with the mark's bytes.
    pub fn rebuild(path: &Path, mark: &MetricsMark, last_step: u64) -> Result<Rebuilt, Error> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let aside = free_name(folder, "metrics-aside", ".jsonl");
        let mut kept = Vec::new();
        let aside = match fs::copy(path, &aside) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            copied => {
                copied.map_err(vit_files::Error::io("write", &aside))?;
                mark.check(&aside)?;
                let unreadable = |error| vit_files::Error::io("read", &aside)(error);
                let mut file = BufReader::new(open_file(&aside).map_err(unreadable)?);
                (&mut file).take(mark.bytes).read_to_end(&mut kept).map_err(unreadable)?;
                let lines = lines_of_at_most(LONGEST_LINE, file).map_while(Result::ok);
                let is_record = |line: &Vec<u8>| match serde_json::from_slice(line) {
                    Ok(Record::Step(step)) => step.step <= last_step,
                    Ok(Record::Epoch(epoch)) => epoch.step <= last_step,
                    Ok(Record::Other) | Err(_) => false,
                };
                lines
                    .filter(|line| line.ends_with(b"\n") && is_record(line))
                    .for_each(|line| kept.extend(line));
                Some(aside)
            }
        };
        vit_files::write_atomically(path, &kept)?;
        let sha256 = Digest::of_bytes(&kept).to_string();
        Ok(Rebuilt { aside, mark: MetricsMark { bytes: kept.len() as u64, sha256 } })
    }

    /// Appends a record in one write, so that readers see complete lines.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, record: &Record) -> Result<(), Error> {
        let mut line = serde_json::to_string(record).expect("a record is plain data");
        line.push('\n');
        let written = self.file.write_all(line.as_bytes());
        written.map_err(vit_files::Error::io("write", &self.path))?;
        self.bytes += line.len() as u64;
        self.hasher.update(line.as_bytes());
        Ok(())
    }

    /// The current length and digest.
    #[must_use]
    pub fn mark(&self) -> MetricsMark {
        MetricsMark { bytes: self.bytes, sha256: self.hasher.clone().finish().to_string() }
    }
}

impl MetricsMark {
    /// Checks that a file begins with this mark's bytes; returns their hasher.
    ///
    /// # Errors
    /// If it does not, or is missing ([`Error::is_damage`]); any other error means that it cannot be read.
    pub fn check(&self, path: &Path) -> Result<Hasher, Error> {
        let altered = |got: String| {
            let expected = format!("to begin with {} bytes of SHA-256 {}", self.bytes, self.sha256);
            vit_files::Error::Altered { path: path.to_owned(), expected, got }.into()
        };
        let unreadable = |error: io::Error| Error::from(vit_files::Error::io("read", path)(error));
        let file = match open_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(altered("no file".to_owned()));
            }
            file => file.map_err(unreadable)?,
        };
        let mut hasher = Hasher::new();
        let bytes = io::copy(&mut file.take(self.bytes), &mut hasher).map_err(unreadable)?;
        let sha256 = hasher.clone().finish().to_string();
        if bytes == self.bytes && sha256 == self.sha256 {
            return Ok(hasher);
        }
        Err(altered(format!("{bytes} of {sha256}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StepMetrics, read_records};

    fn records(path: &Path) -> Vec<Record> {
        let mut records = Vec::new();
        read_records(path, |record| records.push(record)).expect("records");
        records
    }

    fn record(step: u64) -> Record {
        Record::Step(StepMetrics { step, epoch: 1, loss: 2.5, lr: 3e-4 })
    }

    #[test]
    fn records_are_json_lines_with_their_kind() {
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
    fn a_file_is_truncated_to_its_mark_and_continues() {
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
        let error = MetricsFile::open_at(&path, &mark).unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert!(error.to_string().contains("expected to begin with"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), changed);
        std::fs::write(&path, "").expect("a writable folder");
        assert!(MetricsFile::open_at(&path, &mark).is_err());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_its_records_are_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "").expect("a writable folder");
        let mut file = MetricsFile::open_at(&path, &MetricsMark::default()).expect("the file");
        file.append(&record(1)).expect("a writable file");
        let sound = file.mark();
        for step in 2..=5 {
            file.append(&record(step)).expect("a writable file");
        }
        let whole = std::fs::read_to_string(&path).expect("the file");
        let damaged =
            whole.replace("{\"kind\":\"step\",\"step\":3", "{\"kind\":\"stop\"\"step\":3");
        std::fs::write(&path, &damaged).expect("a writable folder");
        assert!(file.mark().check(&path).expect_err("another line").is_damage());
        let rebuilt = MetricsFile::rebuild(&path, &sound, 4).expect("a writable folder");
        let aside = rebuilt.aside.expect("there was a file");
        assert_eq!(std::fs::read_to_string(aside).expect("the damaged file"), damaged);
        assert_eq!(records(&path), [1, 2, 4].map(record));
        rebuilt.mark.check(&path).expect("what was written");
        std::fs::remove_file(&path).expect("the file");
        assert!(sound.check(&path).expect_err("no file").is_damage());
        let rebuilt = MetricsFile::rebuild(&path, &MetricsMark::default(), 4);
        assert_eq!(rebuilt.expect("a writable folder").aside, None);
        assert_eq!(records(&path), []);
    }
}
