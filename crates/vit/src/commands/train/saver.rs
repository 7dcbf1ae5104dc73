//! Saves checkpoints on a separate thread, while the next step runs.

use std::fs::OpenOptions;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vit_files::write_atomically;
use vit_model::{ModelInfo, VitConfig};
use vit_run::{CONFIG, MODEL, RunFolder};
use vit_train::{Checkpoint, SavedState};

use crate::failure::{Exit, Failure, Result};
use crate::interrupt::{self, Writing, writing};
use crate::settings::Settings;
use crate::terminal::quoted;

/// When checkpoints are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SaveEvery {
    Steps(u64),
    Seconds(u64),
}

impl FromStr for SaveEvery {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (number, kind): (_, fn(u64) -> Self) = match text.strip_suffix('s') {
            Some(seconds) => (seconds, Self::Seconds),
            None => (text, Self::Steps),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(kind(number)),
            _ => {
                Err("expected a number of steps such as 500, or of seconds such as 30s".to_owned())
            }
        }
    }
}

/// Saves a run.
pub(super) struct Saver {
    target: Arc<Target>,
    every: Option<SaveEvery>,
    /// When it was last saved.
    saved: Instant,
    /// The save in progress.
    pending: Option<JoinHandle<Result<()>>>,
    /// Signals that the checkpoint is on disk; writing the run's model and pruning come after that.
    kept: Option<Receiver<()>>,
}

/// Where checkpoints go, and their fixed content.
struct Target {
    folder: Arc<RunFolder>,
    settings: String,
    model: VitConfig,
    info: ModelInfo,
    keep: usize,
    /// The step of the newest checkpoint from this process; its lock serialises writing.
    newest: Mutex<u64>,
    /// The state to save if the program has to end before the next step is done.
    held: Mutex<Option<SavedState>>,
}

impl Saver {
    /// Saves at this interval, by default after each epoch, and keeps the newest checkpoints.
    pub(super) fn new(
        folder: Arc<RunFolder>,
        (settings, info): (&Settings, &ModelInfo),
        every: Option<SaveEvery>,
        keep: usize,
    ) -> Self {
        let (model, info, settings) = (settings.model.clone(), info.clone(), settings.to_toml());
        let (newest, held) = (Mutex::new(0), Mutex::new(None));
        let target = Arc::new(Target { folder, settings, model, info, keep, newest, held });
        Self { target, every, saved: Instant::now(), pending: None, kept: None }
    }

    /// Whether to save at this point.
    pub(super) fn is_due(&self, at: Checkpoint) -> bool {
        let is_due = match self.every {
            None => matches!(at, Checkpoint::Epoch { .. }),
            Some(SaveEvery::Steps(steps)) => at.step().is_multiple_of(steps),
            Some(SaveEvery::Seconds(seconds)) => {
                self.saved.elapsed() >= Duration::from_secs(seconds)
            }
        };
        is_due || at.is_last()
    }

    /// Starts writing a checkpoint, after the previous one is written.
    ///
    /// # Errors
    /// If the previous one failed.
    pub(super) fn save(&mut self, state: SavedState, is_last: bool) -> Result<()> {
        self.finish()?;
        self.saved = Instant::now();
        let target = Arc::clone(&self.target);
        let thread = thread::Builder::new().name("saver".to_owned());
        let writing = Writing::begin();
        let (keeps, kept) = channel();
        let write = move || {
            let _writing = writing;
            // The receiver may be gone.
            let written = target.write(&state, || {
                let _ = keeps.send(());
            });
            // Logged while the program's end still waits for it.
            if is_last && written.is_ok() {
                interrupt::is_safe();
            }
            written.map_err(|failure| unwritable(&target.folder, failure))
        };
        let thread = thread.spawn(write).map_err(|error| {
            Failure::new(
                Exit::Internal,
                format!("cannot start the thread that saves checkpoints: {error}"),
            )
        })?;
        (self.pending, self.kept) = (Some(thread), Some(kept));
        Ok(())
    }

    /// Waits until the checkpoint in progress is on disk.
    ///
    /// # Errors
    /// If it could not be written.
    pub(super) fn keep(&mut self) -> Result<()> {
        match self.kept.take().map(|kept| kept.recv()) {
            // The thread ended earlier, with an error.
            Some(Err(_)) => self.finish(),
            _ => Ok(()),
        }
    }

    /// Keeps a state for [`what_saves_at_once`](Self::what_saves_at_once), or drops the kept one.
    pub(super) fn hold(&self, state: Option<SavedState>) {
        *locked(&self.target.held) = state;
    }

    /// Returns a function that saves the kept state, from any thread, and returns whether there was one.
    pub(super) fn what_saves_at_once(&self) -> impl Fn() -> Result<bool> + Send + 'static {
        let target = Arc::clone(&self.target);
        move || {
            let Some(state) = locked(&target.held).take() else { return Ok(false) };
            writing(|| target.write(&state, || {}))?;
            Ok(true)
        }
    }

    /// Waits for all writing.
    ///
    /// # Errors
    /// If it failed.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.pending.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Target {
    /// Writes a checkpoint; calls `kept` once it is on disk.
    fn write(&self, state: &SavedState, kept: impl FnOnce()) -> Result<()> {
        let mut newest = locked(&self.newest);
        let step = state.state.progress.step;
        if step < *newest {
            return Ok(());
        }
        let (folder, metrics) = (&self.folder, self.folder.metrics());
        // The checkpoint's record of the metrics must also hold after a power failure.
        let synced = OpenOptions::new().write(true).open(&metrics).and_then(|file| file.sync_all());
        synced.map_err(vit_files::Error::io("sync", &metrics))?;
        let model = vit_model::to_bytes_with(state.state.weights(), &self.model, &self.info)?;
        let files = [(CONFIG, self.settings.as_bytes()), (MODEL, model.as_slice())];
        let path = state.write(folder, &files)?;
        kept();
        // At any time, the run's model equals the model in a checkpoint.
        write_atomically(&folder.model(), &model)?;
        folder.point_last_to(&path)?;
        folder.prune_checkpoints(self.keep)?;
        *newest = step;
        Ok(())
    }
}

/// Adds advice on how to continue to the error of a file that cannot be written.
pub(super) fn unwritable(folder: &RunFolder, failure: Failure) -> Failure {
    if !failure.is(Exit::File) {
        return failure;
    }
    failure.hint(if folder.path().exists() {
        format!("once it is writable, continue with `vit train --resume {}`", quoted(folder.path()))
    } else {
        let shown = folder.path().display();
        format!("{shown} is gone: if it was moved, continue there with `vit train --resume`")
    })
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn save_every_takes_steps_or_seconds() {
        assert_eq!("20".parse(), Ok(SaveEvery::Steps(20)));
        assert_eq!("30s".parse(), Ok(SaveEvery::Seconds(30)));
        for wrong in ["", "0", "s", "-1", "1m", "0s"] {
            assert!(wrong.parse::<SaveEvery>().is_err(), "{wrong}");
        }
    }
}
