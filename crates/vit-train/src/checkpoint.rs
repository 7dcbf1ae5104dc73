//! Checkpoints on disk: each is a folder, complete or absent, with the digests of its files.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vit_files::{open_file, text_of_at_most};
use vit_run::{MetricsMark, RunFolder, STATE, TENSORS, check_checkpoint};

use crate::{Error, RunProgress, Tensors, TrainState, saved_tensors};

/// Version of `state.json` and `state.safetensors`.
const FORMAT: u64 = 1;
/// Size limit of `state.json`, a hundred times the usual: parsed JSON takes many times its size.
const LONGEST_STATE: u64 = 1 << 18;
/// Size limit of the tensors' header: a model of 512 blocks.
const LONGEST_HEADER: u64 = 4 << 20;

/// Prefixes of the tensors' names in `state.safetensors`.
const PARAMETERS: &str = "parameters/";
const AVERAGES: &str = "averages/";
const MOMENTS: [&str; 2] = ["moments/first/", "moments/second/"];

/// A run's state as saved.
#[derive(Clone, Debug)]
pub struct SavedState {
    /// The state.
    pub state: TrainState,
    /// Length of the metrics.
    pub metrics: MetricsMark,
    /// The program's own metadata of the run.
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

/// Read first: nothing else is known of another version's format.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl SavedState {
    /// Writes a checkpoint into a run directory, with the program's own files: `checkpoints/step-000937` after 937
    /// steps. It is written elsewhere and moved there once complete; earlier checkpoints stay.
    ///
    /// # Errors
    /// If it cannot be written; nothing of it remains.
    pub fn write(&self, run: &RunFolder, others: &[(&str, &[u8])]) -> Result<PathBuf, Error> {
        let tensors = safetensors::serialize(self.tensors(), None).map_err(|error| {
            let path = run.checkpoints().join(TENSORS);
            vit_run::Error::from(vit_files::Error::io("write", &path)(io::Error::other(error)))
        })?;
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
        Ok(run.write_checkpoint(self.state.progress.step, &files)?)
    }

    /// Reads a checkpoint and verifies the digest of each file, which may have at most `most_bytes` bytes
    /// ([`most_bytes_of`]).
    ///
    /// # Errors
    /// If a file is damaged ([`Error::is_damage`]), unreadable, or of another version.
    pub fn read(path: &Path, most_bytes: u64) -> Result<Self, Error> {
        check_checkpoint(path, most_bytes)?;
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

/// Upper bound of a checkpoint's largest file: four `f64` tensors for each parameter, and a header.
#[must_use]
pub const fn most_bytes_of(parameters: u64) -> u64 {
    parameters.saturating_mul(4 * 8).saturating_add(8 + LONGEST_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::{Best, Sums};
    use candle_core::{Device, Tensor};
    use tempfile::TempDir;

    const OTHERS: [(&str, &[u8]); 2] = [(vit_run::CONFIG, b"x = 1\n"), (vit_run::MODEL, b"1")];
    const MOST: u64 = most_bytes_of(2);

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
    fn checkpoints_round_trip_bit_for_bit() {
        let (_above, run) = run();
        let saved = saved(937);
        let path = saved.write(&run, &OTHERS).expect("a writable folder");
        assert!(path.ends_with("checkpoints/step-000937"));
        let again = SavedState::read(&path, MOST).expect("as written");
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
    fn another_format_version_is_an_error_that_names_it() {
        let (_above, run) = run();
        let path = saved(1).write(&run, &OTHERS).expect("a writable folder");
        let state = fs::read_to_string(path.join(STATE)).expect("the file");
        let other = state.replace("\"format\": 1", "\"format\": 2");
        let tensors = fs::read(path.join(TENSORS)).expect("the file");
        let files = [&OTHERS[..], &[(STATE, other.as_bytes()), (TENSORS, &tensors)]].concat();
        run.write_checkpoint(1, &files).expect("a writable folder");
        let error = SavedState::read(&path, MOST).unwrap_err().to_string();
        assert!(error.ends_with("state.json: expected format 1, got 2"), "{error}");
    }
}
