//! Everything the program writes to a terminal.
//!
//! Text from files, servers or arguments may contain characters that move the cursor, change colours or the title,
//! reorder text, or start a line that looks like ours. So each message is one line, [`escaped`] as a whole before it is
//! written; our own multi-line texts are several messages. Commands in hints are [`quoted`] for a shell.

mod escape;
mod panics;
mod shell;
pub(crate) mod stderr;
pub(crate) mod stdout;

pub(crate) use escape::{escaped, escaped_in_json, is_hidden};
pub(crate) use panics::install_panic_hook;
#[cfg_attr(
    not(feature = "mpi"),
    allow(unused_imports, reason = "without ranks there is one process")
)]
pub(crate) use panics::set_panic_prefix;
pub(crate) use shell::quoted;
