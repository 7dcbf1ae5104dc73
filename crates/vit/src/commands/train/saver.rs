//! Checkpoints, written on a thread of their own, beside the step that comes next.

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

/// How often the model is saved.
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
    /// When it was saved last.
    saved: Instant,
    /// What is being written.
    pending: Option<JoinHandle<Result<()>>>,
    /// Hears that its checkpoint is on the disk; the run's model and what is removed come after that.
    kept: Option<Receiver<()>>,
}

/// Where a checkpoint goes, and what goes into each.
struct Target {
    folder: Arc<RunFolder>,
    settings: String,
    model: VitConfig,
    info: ModelInfo,
    keep: usize,
    /// The step of the newest checkpoint that this process has written; who holds it writes.
    newest: Mutex<u64>,
    /// What is to be saved if the program has to end before the next step is done.
    held: Mutex<Option<SavedState>>,
}

impl Saver {
    /// Saves as often as asked for, else after each epoch, and keeps the newest.
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

    /// Whether the run is to be saved here.
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

    /// Begins to write a checkpoint, once the one before has been written.
    ///
    /// # Errors
    /// That of the one before.
    pub(super) fn save(&mut self, state: SavedState, is_last: bool) -> Result<()> {
        self.finish()?;
        self.saved = Instant::now();
        let target = Arc::clone(&self.target);
        let thread = thread::Builder::new().name("saver".to_owned());
        let writing = Writing::begin();
        let (keeps, kept) = channel();
        let write = move || {
            let _writing = writing;
            // Nobody may wait for it.
            let written = target.write(&state, || {
                let _ = keeps.send(());
            });
            // Said while the end still waits for it.
            if is_last && written.is_ok() {
                interrupt::is_safe();
            }
            written.map_err(|failure| unwritable(&target.folder, failure))
        };
        let thread = thread.spawn(write).map_err(|error| {
            Failure::new(Exit::Internal, format!("cannot start a thread that saves: {error}"))
        })?;
        (self.pending, self.kept) = (Some(thread), Some(kept));
        Ok(())
    }

    /// Waits until the checkpoint that is being written is on the disk.
    ///
    /// # Errors
    /// If it could not be written.
    pub(super) fn keep(&mut self) -> Result<()> {
        match self.kept.take().map(|kept| kept.recv()) {
            // It ended before.
            Some(Err(_)) => self.finish(),
            _ => Ok(()),
        }
    }

    /// Keeps a state, or none, to be saved by [`what_saves_at_once`](Self::what_saves_at_once).
    pub(super) fn hold(&self, state: Option<SavedState>) {
        *locked(&self.target.held) = state;
    }

    /// Saves the state that is held when it is called, on any thread, and says whether there was one.
    pub(super) fn what_saves_at_once(&self) -> impl Fn() -> Result<bool> + Send + 'static {
        let target = Arc::clone(&self.target);
        move || {
            let Some(state) = locked(&target.held).take() else { return Ok(false) };
            writing(|| target.write(&state, || {}))?;
            Ok(true)
        }
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// If it could not be.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.pending.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Target {
    /// Writes a checkpoint, and says when it is kept.
    fn write(&self, state: &SavedState, kept: impl FnOnce()) -> Result<()> {
        let mut newest = locked(&self.newest);
        let step = state.state.progress.step;
        if step < *newest {
            return Ok(());
        }
        let (folder, metrics) = (&self.folder, self.folder.metrics());
        // What the checkpoint says of the metrics must hold after a power cut too.
        let synced = OpenOptions::new().write(true).open(&metrics).and_then(|file| file.sync_all());
        synced.map_err(vit_files::Error::io("sync", &metrics))?;
        let model = vit_model::to_bytes_with(state.state.weights(), &self.model, &self.info)?;
        let files = [(CONFIG, self.settings.as_bytes()), (MODEL, model.as_slice())];
        let path = state.write(folder, &files)?;
        kept();
        // Whenever this ends, the run's model is that of a checkpoint.
        write_atomically(&folder.model(), &model)?;
        folder.point_last_to(&path)?;
        folder.prune_checkpoints(self.keep)?;
        *newest = step;
        Ok(())
    }
}

/// A file of a run that cannot be written ends it; it is said how it goes on.
pub(super) fn unwritable(folder: &RunFolder, failure: Failure) -> Failure {
    if !failure.is(Exit::File) {
        return failure;
    }
    failure.hint(if folder.path().exists() {
        format!("once it can be written, go on with `vit train --resume {}`", quoted(folder.path()))
    } else {
        let shown = folder.path().display();
        format!("{shown} is gone: if it was moved, go on there with `vit train --resume`")
    })
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saving_is_by_steps_or_seconds() {
        assert_eq!("20".parse(), Ok(SaveEvery::Steps(20)));
        assert_eq!("30s".parse(), Ok(SaveEvery::Seconds(30)));
        for wrong in ["", "0", "s", "-1", "1m", "0s"] {
            assert!(wrong.parse::<SaveEvery>().is_err(), "{wrong}");
        }
    }
}
