//! Ctrl-C and SIGTERM. They end the program at once, unless it is training: a run saves itself and ends, within a short
//! time limit, and at once on a second signal.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::failure::{Exit, Failure, HINT, Result};
use crate::progress;
use crate::terminal::{quoted, stderr};

static TRAINING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);
/// The run directory.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();
/// Saves a run in the middle of a step.
static SAVE: Mutex<Option<Save>> = Mutex::new(None);
/// Whether the run's whole state is on disk.
static SAFE: AtomicBool = AtomicBool::new(false);
static TOLD: Mutex<bool> = Mutex::new(false);
/// Number of threads writing files that must not be left incomplete.
static WRITING: Mutex<usize> = Mutex::new(0);
static WRITTEN: Condvar = Condvar::new();

/// Stops a server.
static SERVER: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Saves the state kept for it; returns whether there was one.
type Save = Box<dyn Fn() -> Result<bool> + Send>;

/// Time that a run has to end by itself.
const PATIENCE: Duration = Duration::from_millis(1500);
/// With several ranks, signals within this time count as one: launchers pass on a signal that the terminal also sends,
/// and repeat it.
const ONE_SIGNAL: Duration = Duration::from_secs(2);

static HAS_OTHERS: AtomicBool = AtomicBool::new(false);
/// Other ranks than 0 wait longer: rank 0 may still write the checkpoint, and the launcher treats an exiting rank as
/// failed. After rank 0 exits, the launcher ends the others.
const PATIENCE_WITH_RANK_0: Duration = Duration::from_secs(30);
static FOLLOWS: AtomicBool = AtomicBool::new(false);
/// Time limit for the last messages.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Starts listening to signals.
///
/// # Errors
/// If the system refuses.
pub(crate) fn listen() -> Result<()> {
    let begun = Mutex::new(None);
    let on_signal = move || {
        let is_first = !ASKED.swap(true, Ordering::SeqCst);
        let since = *locked(&begun).get_or_insert_with(Instant::now);
        if !is_first && HAS_OTHERS.load(Ordering::SeqCst) && since.elapsed() < ONE_SIGNAL {
            return;
        }
        stderr::hurry();
        // A server without training stops after its open requests, or at once on a second signal.
        if is_first && let Some(stop) = SERVER.get() {
            stop();
            if !TRAINING.load(Ordering::SeqCst) {
                return;
            }
        }
        let waits = is_first && TRAINING.load(Ordering::SeqCst);
        if !waits || Builder::new().name("leaver".to_owned()).spawn(leave_soon).is_err() {
            leave();
        }
    };
    let on_signal = std::sync::Arc::new(on_signal);
    let on_ctrl_c = std::sync::Arc::clone(&on_signal);
    ctrlc::set_handler(move || on_ctrl_c()).map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot listen for Ctrl-C: {error}"))
    })?;
    listen_to_schedulers(move || on_signal())?;
    outlive_limits()
}

/// Slurm sends SIGUSR1 before a job's time limit, if `--signal` requests it.
#[cfg(unix)]
fn listen_to_schedulers(on_signal: impl Fn() + Send + 'static) -> Result<()> {
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Internal, format!("cannot listen for SIGUSR1: {error}"))
    };
    let signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR1]);
    let mut signals = signals.map_err(cannot)?;
    let listen = move || signals.forever().for_each(|_| on_signal());
    Builder::new().name("scheduler".to_owned()).spawn(listen).map(drop).map_err(cannot)
}

#[cfg(not(unix))]
fn listen_to_schedulers(_on_signal: impl Fn() + Send + 'static) -> Result<()> {
    Ok(())
}

/// From now on this process is this rank of several.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "without ranks there is one process"))]
pub(crate) fn is_rank(rank: usize) {
    HAS_OTHERS.store(true, Ordering::SeqCst);
    FOLLOWS.store(rank > 0, Ordering::SeqCst);
}

/// Another rank was asked to end.
pub(crate) fn ask() {
    ASKED.store(true, Ordering::SeqCst);
}

/// Makes reaching the file-size limit an error of the write. By default it kills the program, which would leave the
/// file incomplete.
#[cfg(unix)]
fn outlive_limits() -> Result<()> {
    let heard = std::sync::Arc::new(AtomicBool::new(false));
    let registered = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, heard);
    registered.map(drop).map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot listen for SIGXFSZ: {error}"))
    })
}

#[cfg(not(unix))]
fn outlive_limits() -> Result<()> {
    Ok(())
}

/// From now on a run checks [`asked`] after every step.
pub(crate) fn training_begins() {
    TRAINING.store(true, Ordering::SeqCst);
}

/// Registers the run directory, and the function behind [`save_at_once`].
pub(crate) fn trains_in(folder: &Path, save: impl Fn() -> Result<bool> + Send + 'static) {
    // There is only one run.
    let _ = FOLDER.set(folder.to_owned());
    *locked(&SAVE) = Some(Box::new(save));
}

/// Registers the function that stops the server.
pub(crate) fn serves(stop: impl Fn() + Send + Sync + 'static) {
    // There is only one server.
    let _ = SERVER.set(Box::new(stop));
}

/// Whether the run should end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Saves the kept state. Called when the program is asked to end; a state kept after that must be saved by its owner.
pub(crate) fn save_at_once() {
    let save = locked(&SAVE);
    match save.as_ref().map_or(Ok(false), |save| save()) {
        Ok(true) => is_safe(),
        Ok(false) => {}
        Err(failure) => tracing::warn!("{}", failure.message()),
    }
}

/// The run's whole state is on disk, and it has ended.
pub(crate) fn is_safe() {
    SAFE.store(true, Ordering::SeqCst);
}

/// The run continues with unsaved state.
pub(crate) fn is_unsafe() {
    SAFE.store(false, Ordering::SeqCst);
}

/// Logs, once, that the run was interrupted and how to resume it.
pub(crate) fn tell() {
    let Some(folder) = FOLDER.get() else { return };
    let mut told = locked(&TOLD);
    if std::mem::replace(&mut *told, true) {
        return;
    }
    let shown = folder.display();
    if SAFE.load(Ordering::SeqCst) {
        tracing::warn!("interrupted; the run is saved in {shown}");
    } else {
        tracing::warn!("interrupted in the middle of a step; {shown} has the last saved state");
    }
    tracing::warn!(target: HINT, "continue with `vit train --resume {}`", quoted(folder));
}

/// Saves what it can at once, gives the run some time to do better, and exits, but not during [`Writing`].
fn leave_soon() {
    let since = Instant::now();
    save_at_once();
    let patience = if FOLLOWS.load(Ordering::SeqCst) { PATIENCE_WITH_RANK_0 } else { PATIENCE };
    std::thread::sleep(patience.saturating_sub(since.elapsed()));
    let writing = locked(&WRITING);
    // Kept until the exit, so that no other write begins.
    let _writing =
        WRITTEN.wait_while(writing, |writing| *writing > 0).unwrap_or_else(PoisonError::into_inner);
    briefly(tell);
    leave();
}

fn leave() -> ! {
    briefly(progress::end);
    // Done last: threads that still write are blocked afterwards.
    briefly(vit_files::remove_temporaries);
    std::process::exit(Exit::Interrupted as i32);
}

/// Runs something that may block for ever, such as writing to stderr, with a time limit.
fn briefly(what: fn()) {
    let (done, is_done) = channel();
    let thread = Builder::new().name("last words".to_owned()).spawn(move || {
        what();
        // The receiver may be gone.
        let _ = done.send(());
    });
    if thread.is_ok() {
        // If it is not done by then, it is blocked.
        let _ = is_done.recv_timeout(LAST_WORDS);
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it exists, the program's end waits for a write in progress, unless it is asked to end again.
pub(crate) struct Writing(());

impl Writing {
    pub(crate) fn begin() -> Self {
        *locked(&WRITING) += 1;
        Self(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        *locked(&WRITING) -= 1;
        WRITTEN.notify_all();
    }
}

/// Runs a write that the program's end waits for.
pub(crate) fn writing<T>(write: impl FnOnce() -> T) -> T {
    let _writing = Writing::begin();
    write()
}
