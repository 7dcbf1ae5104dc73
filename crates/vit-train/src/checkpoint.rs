//! Checkpoints on disk: a folder each, whole or absent, with the digests of its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vit_files::{open_file, sync_folder, text_of_at_most};

use crate::{Error, MetricsMark, RunFolder, RunProgress, Tensors, TrainState, saved_tensors};

/// What `state.json` and `state.safetensors` mean; other numbers are of other versions.
const FORMAT: u64 = 1;
/// The folder in a run's that holds them.
const FOLDER: &str = "checkpoints";
const STATE: &str = "state.json";
const TENSORS: &str = "state.safetensors";
/// Bytes of `state.json`, a hundred times what it has: what is said of the run is parsed into many times its size.
const LONGEST_STATE: u64 = 1 << 18;
/// Bytes of the other's header: that of a model of 512 blocks.
const LONGEST_HEADER: u64 = 4 << 20;

/// Which tensors of `state.safetensors` are what: the beginnings of their names.
const PARAMETERS: &str = "parameters/";
const AVERAGES: &str = "averages/";
const MOMENTS: [&str; 2] = ["moments/first/", "moments/second/"];

/// A run's state as it lies on the disk.
#[derive(Clone, Debug)]
pub struct SavedState {
    /// The state.
    pub state: TrainState,
    /// What had been recorded.
    pub metrics: MetricsMark,
    /// What the program said of the run.
    pub about: Map<String, Value>,
}

/// `state.json`
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    format: u64,
    #[serde(rename = "place")]
    progress: RunProgress,
    order: String,
    metrics: MetricsMark,
    about: Map<String, Value>,
}

/// What is asked first: of another format nothing else is known.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl SavedState {
    /// Writes a checkpoint into a run's folder, with the program's own files beside: `checkpoints/step-000937` after
    /// 937 steps. Until it is whole it lies elsewhere, and those before it stay.
    ///
    /// # Errors
    /// If it cannot be written; then nothing of it is left.
    pub fn write(&self, run: &RunFolder, others: &[(&str, &[u8])]) -> Result<PathBuf, Error> {
        let above = run.checkpoints();
        match fs::create_dir(&above) {
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let made = made.and_then(|()| sync_folder(run.path()));
                made.map_err(|source| Error::Write { path: above.clone(), source })?;
            }
        }
        let path = above.join(name_of(self.state.progress.step));
        let tensors = self.tensors();
        let unwritable = |error: safetensors::SafeTensorError| {
            let source = io::Error::other(error);
            Error::Write { path: path.join(TENSORS), source }
        };
        let tensors = safetensors::serialize(&tensors, None).map_err(unwritable)?;
        let state = StateFile {
            format: FORMAT,
            progress: self.state.progress,
            order: self.state.order.clone(),
            metrics: self.metrics.clone(),
            about: self.about.clone(),
        };
        let state = serde_json::to_string_pretty(&state).expect("a state is plain data");
        let mut files = vec![(STATE, state.as_bytes()), (TENSORS, tensors.as_slice())];
        files.extend(others);
        vit_files::write_folder_atomically(&path, run.path(), &files)?;
        Ok(path)
    }

    /// Reads a checkpoint, each of whose files must be as it was written.
    ///
    /// # Errors
    /// If it is not, or is of another version.
    pub fn read(path: &Path) -> Result<Self, Error> {
        vit_files::check_folder(path)?;
        let unreadable =
            |name: &str, what: String| Error::Unreadable { path: path.join(name), what };
        let text =
            open_file(&path.join(STATE)).and_then(|file| text_of_at_most(LONGEST_STATE, file));
        let text = text.map_err(|error| unreadable(STATE, error.to_string()))?;
        let misread = |error: serde_json::Error| unreadable(STATE, error.to_string());
        let Version { format } = serde_json::from_str(&text).map_err(misread)?;
        if format != FORMAT {
            return Err(unreadable(STATE, format!("expected format {FORMAT}, got {format}")));
        }
        let file: StateFile = serde_json::from_str(&text).map_err(misread)?;
        let tensors = saved_tensors::read(&path.join(TENSORS), LONGEST_HEADER)
            .map_err(|what| unreadable(TENSORS, what))?;
        let of = |kind: &str| -> Option<Tensors> {
            let named = tensors.iter().filter_map(|(name, tensor)| {
                Some((name.strip_prefix(kind)?.to_owned(), tensor.clone()))
            });
            Some(named.collect::<Tensors>()).filter(|tensors| !tensors.is_empty())
        };
        let moments = MOMENTS.iter().map_while(|kind| of(kind)).collect();
        let state = TrainState {
            progress: file.progress,
            order: file.order,
            parameters: of(PARAMETERS).unwrap_or_default(),
            averages: of(AVERAGES),
            moments,
        };
        Ok(Self { state, metrics: file.metrics, about: file.about })
    }

    fn tensors(&self) -> Tensors {
        let TrainState { parameters, averages, moments, .. } = &self.state;
        let moments = MOMENTS.into_iter().zip(moments);
        let averages = averages.iter().map(|averages| (AVERAGES, averages));
        let all = [(PARAMETERS, parameters)].into_iter().chain(averages).chain(moments);
        all.flat_map(|(kind, tensors)| {
            tensors.iter().map(move |(name, tensor)| (format!("{kind}{name}"), tensor.clone()))
        })
        .collect()
    }
}

fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

/// The checkpoints of the run in a folder, the newest first. Whatever else lies among them is left out.
///
/// # Errors
/// If their folder cannot be read.
pub fn newest_checkpoints(run: &Path) -> Result<Vec<PathBuf>, Error> {
    let above = run.join(FOLDER);
    let unreadable =
        |error: io::Error| Error::Unreadable { path: above.clone(), what: error.to_string() };
    let entries = match fs::read_dir(&above) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
        let step = step.and_then(|digits| digits.parse::<u64>().ok());
        if let Some(step) = step.filter(|&step| name.to_str() == Some(&name_of(step)))
            && entry.file_type().map_err(unreadable)?.is_dir()
        {
            found.push((step, entry.path()));
        }
    }
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

impl RunFolder {
    /// The checkpoints, a folder each.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path().join(FOLDER)
    }

    /// Removes all checkpoints but the newest `keep`.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn prune_checkpoints(&self, keep: usize) -> Result<(), Error> {
        let mut old = newest_checkpoints(self.path())?.into_iter().skip(keep);
        old.try_for_each(|path| self.remove_checkpoint(&path))
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove_checkpoint(&self, path: &Path) -> Result<(), Error> {
        // Renamed first: half a checkpoint never lies among the others.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.path().join(format!(".tmp-{name}"));
        let removed = fs::rename(path, &aside).and_then(|()| fs::remove_dir_all(&aside));
        removed.map_err(|source| Error::Write { path: path.to_owned(), source })
    }

    /// Makes `checkpoints/last` a link to a checkpoint; where the system or its disk has no such links, there is none.
    ///
    /// # Errors
    /// If it cannot be put in the place of the one before.
    pub fn point_last_to(&self, checkpoint: &Path) -> Result<(), Error> {
        #[cfg(unix)]
        {
            let name = checkpoint.file_name().unwrap_or_default();
            let aside = self.path().join(".tmp-last");
            let last = self.checkpoints().join("last");
            // As a copy of the run has one that was made with links followed.
            if fs::symlink_metadata(&last).is_ok_and(|metadata| metadata.is_dir()) {
                self.remove_checkpoint(&last)?;
            }
            if std::os::unix::fs::symlink(name, &aside).is_ok() {
                let renamed = fs::rename(&aside, &last).inspect_err(|_| {
                    // That it cannot be put there is what is told.
                    let _ = fs::remove_file(&aside);
                });
                renamed.map_err(|source| Error::Write { path: last, source })?;
            }
        }
        #[cfg(not(unix))]
        let _ = checkpoint;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Best, Sums};
    use candle_core::{Device, Tensor};
    use tempfile::TempDir;

    fn run() -> (TempDir, RunFolder) {
        let above = tempfile::tempdir().expect("a temporary folder");
        let run = RunFolder::create(&above.path().join("run"), &[]).expect("a writable folder");
        (above, run)
    }

    fn saved(step: u64) -> SavedState {
        let tensors = |value: f32| {
            let tensor = Tensor::new(&[value, -value], &Device::Cpu).expect("a small tensor");
            Tensors::from([("w".to_owned(), tensor)])
        };
        let sums = Sums { loss_sum: 0.1 + 0.2, correct: 3, samples: 7 };
        let progress = RunProgress {
            step,
            epoch: 2,
            step_of_epoch: 1,
            of_epoch: sums,
            since_record: Sums { loss_sum: 1.0 / 3.0, ..sums },
            best: Best::default(),
            lr_scale: 1.0,
        };
        let state = TrainState {
            progress,
            order: "0".repeat(64),
            parameters: tensors(1.0),
            averages: Some(tensors(2.0)),
            moments: vec![tensors(3.0), tensors(4.0)],
        };
        let about = Map::from_iter([("dataset".to_owned(), "digits".into())]);
        SavedState { state, metrics: MetricsMark::default(), about }
    }

    #[test]
    fn what_is_written_is_read_again_to_the_bit() {
        let (_above, run) = run();
        let saved = saved(937);
        let path = saved.write(&run, &[("config.toml", b"x = 1\n")]).expect("a writable folder");
        assert!(path.ends_with("checkpoints/step-000937"));
        let again = SavedState::read(&path).expect("as written");
        assert_eq!(again.state.progress, saved.state.progress);
        assert_eq!((&again.state.order, &again.about), (&saved.state.order, &saved.about));
        assert_eq!(again.metrics, saved.metrics);
        let numbers = |saved: &SavedState| -> Vec<Vec<f32>> {
            saved.tensors().values().map(|tensor| tensor.to_vec1().expect("f32")).collect()
        };
        assert_eq!(numbers(&again), numbers(&saved));
        assert_eq!(again.tensors().len(), 4);
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let (_above, run) = run();
        assert!(newest_checkpoints(run.path()).expect("none").is_empty());
        for step in [5, 1_000_000, 20] {
            let path = saved(step).write(&run, &[]).expect("a writable folder");
            run.point_last_to(&path).expect("a writable folder");
        }
        fs::create_dir(run.checkpoints().join("step-7")).expect("a writable folder");
        let names = || -> Vec<String> {
            let paths = newest_checkpoints(run.path()).expect("a readable folder");
            paths
                .iter()
                .map(|path| path.file_name().expect("a name").display().to_string())
                .collect()
        };
        assert_eq!(names(), ["step-1000000", "step-000020", "step-000005"]);
        // A copy that followed the link.
        #[cfg(unix)]
        {
            let last = run.checkpoints().join("last");
            fs::remove_file(&last).expect("the link");
            fs::create_dir(&last).expect("a writable folder");
            fs::write(last.join(STATE), "{}").expect("a writable folder");
            run.point_last_to(&run.checkpoints().join(name_of(1_000_000))).expect("a link again");
            assert!(last.is_symlink());
        }
        run.prune_checkpoints(2).expect("a writable folder");
        assert_eq!(names(), ["step-1000000", "step-000020"]);
        #[cfg(unix)]
        assert!(SavedState::read(&run.checkpoints().join("last")).is_ok());
    }

    #[test]
    fn another_version_is_named() {
        let (_above, run) = run();
        let path = saved(1).write(&run, &[]).expect("a writable folder");
        let state = fs::read_to_string(path.join(STATE)).expect("the file");
        let other = state.replace("\"format\": 1", "\"format\": 2");
        let tensors = fs::read(path.join(TENSORS)).expect("the file");
        let files = [(STATE, other.as_bytes()), (TENSORS, tensors.as_slice())];
        vit_files::write_folder_atomically(&path, run.path(), &files).expect("a writable folder");
        let error = SavedState::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("state.json: expected format 1, got 2"), "{error}");
    }
}
