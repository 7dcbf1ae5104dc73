//! Stdout, for bytes that hold nothing that a terminal should not see; [`output`](crate::output) makes them.

use std::io::{self, Write};

/// Writes all of it.
///
/// # Errors
/// If stdout cannot be written.
#[expect(clippy::disallowed_methods, reason = "everything else goes through here")]
pub(crate) fn write(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}
