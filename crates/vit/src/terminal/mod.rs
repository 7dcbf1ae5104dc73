//! What the program writes to a terminal, and the one place that writes it.
//!
//! A file, a server or an argument can hold characters that move the cursor, recolour or rename the terminal, reorder text,
//! or begin a line that looks like ours. So a message is one line, and [`escaped`] whole before it is written; lines of
//! ours are several messages. Commands in hints are [`quoted`] for a shell.

mod escape;
mod panics;
mod shell;
pub(crate) mod stderr;
pub(crate) mod stdout;

pub(crate) use escape::{escaped, escaped_in_json, is_hidden};
#[cfg_attr(
    not(feature = "mpi"),
    allow(unused_imports, reason = "without ranks there is one process")
)]
pub(crate) use panics::call_panics_those_of;
pub(crate) use panics::tell_panics;
pub(crate) use shell::quoted;
