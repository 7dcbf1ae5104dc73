//! Ctrl-C and SIGTERM: they end the program at once, but for a run that is training. That is asked to end after the
//! current step, and ends at once when asked again.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Exit, Failure, Result};
use crate::progress;

static TRAINING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
///
/// # Errors
/// If the system refuses.
pub(crate) fn listen() -> Result<()> {
    let on_signal = || {
        let asked_before = ASKED.swap(true, Ordering::Relaxed);
        if asked_before || !TRAINING.load(Ordering::Relaxed) {
            progress::end();
            std::process::exit(Exit::Interrupted as i32);
        }
    };
    ctrlc::set_handler(on_signal)
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot listen for Ctrl-C: {error}")))
}

/// From now on there is a run that looks at [`asked`] after every step.
pub(crate) fn training_begins() {
    TRAINING.store(true, Ordering::Relaxed);
}

/// Whether the run should end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
