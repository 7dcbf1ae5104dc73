//! Ctrl-C and SIGTERM: they end the program at once, but for a run that is training. That is asked to end after the
//! current step, and ends at once when asked again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Exit, Failure, Result};
use crate::progress;

static TRAINING: AtomicBool = AtomicBool::new(false);
static ASKED: OnceLock<Instant> = OnceLock::new();
static LEAVING: AtomicBool = AtomicBool::new(false);
/// Held while files are written that the program does not leave half done.
static WRITING: Mutex<()> = Mutex::new(());

/// How long after it was asked to end a run whose state is safe may still take to draw what it has come to.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Listens from now on.
///
/// # Errors
/// If the system refuses.
pub(crate) fn listen() -> Result<()> {
    let on_signal = || {
        let is_first = ASKED.set(Instant::now()).is_ok();
        if !is_first || !TRAINING.load(Ordering::Relaxed) {
            progress::end();
            std::process::exit(Exit::Interrupted as i32);
        }
    };
    ctrlc::set_handler(on_signal).map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot listen for Ctrl-C: {error}"))
    })?;
    outlive_limits()
}

/// A file that reaches the limit set for its size is to be an error of its write, and not the end of the program, which
/// would leave the file behind.
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

/// From now on there is a run that looks at [`asked`] after every step.
pub(crate) fn training_begins() {
    TRAINING.store(true, Ordering::Relaxed);
}

/// Whether the run should end.
pub(crate) fn asked() -> bool {
    ASKED.get().is_some()
}

/// Ends the program soon, but not while [`writing`]: its state is safe, and who asked for its end waits. Says whether this is
/// the first call.
pub(crate) fn leave_soon() -> bool {
    if LEAVING.swap(true, Ordering::Relaxed) {
        return false;
    }
    let waited = ASKED.get().map_or(Duration::ZERO, Instant::elapsed);
    thread::spawn(move || {
        thread::sleep(PATIENCE.saturating_sub(waited));
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        progress::end();
        std::process::exit(Exit::Interrupted as i32);
    });
    true
}

/// Writes something that [`leave_soon`] waits for.
pub(crate) fn writing<T>(write: impl FnOnce() -> T) -> T {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
