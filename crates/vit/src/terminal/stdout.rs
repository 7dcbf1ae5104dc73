//! Stdout, for bytes that hold nothing that a terminal should not see; [`output`](crate::output) makes them.

use std::io::{self, IsTerminal, Write};

/// Writes all of it.
///
/// # Errors
/// If stdout cannot be written.
#[expect(clippy::disallowed_methods, reason = "everything else goes through here")]
pub(crate) fn write(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}

/// Whether a terminal shows it.
#[expect(clippy::disallowed_methods, reason = "it is only asked")]
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// The columns of the terminal, where there is one.
#[expect(clippy::disallowed_methods, reason = "it is only asked")]
pub(crate) fn width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(width.0.into())
}

/// The file behind it, for an output whose path leads there: its bytes are the user's to send to a terminal.
///
/// # Errors
/// If it is closed.
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "for bytes that are no text")]
pub(crate) fn file() -> io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}
