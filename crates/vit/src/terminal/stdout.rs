//! Stdout, for text that is safe for a terminal; [`output`](crate::output) prepares it.

use std::io::{self, IsTerminal, Write};

/// Writes the text completely.
///
/// # Errors
/// If stdout cannot be written.
#[expect(clippy::disallowed_methods, reason = "everything else goes through here")]
pub(crate) fn write(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}

/// Whether stdout is a terminal.
#[expect(clippy::disallowed_methods, reason = "nothing is written")]
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// The terminal's columns, if it is one.
#[expect(clippy::disallowed_methods, reason = "nothing is written")]
pub(crate) fn width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(width.0.into())
}

/// The file behind stdout, for an output whose path leads there: the user decided to send its bytes to the terminal.
///
/// # Errors
/// If stdout is closed.
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "for binary output")]
pub(crate) fn file() -> io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}
