//! Ctrl-C and SIGTERM: the first asks to end soon, the second ends at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Exit, Failure, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
///
/// # Errors
/// If the system refuses.
pub(crate) fn listen() -> Result<()> {
    let on_signal = || {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
    };
    ctrlc::set_handler(on_signal)
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot listen for Ctrl-C: {error}")))
}

/// Whether the run should end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
