//! Reports panics, which may quote anything, like other messages.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic;
use std::sync::OnceLock;
use std::thread;

use super::{escaped, stderr};

/// Names this process if several share a terminal.
static OWNER: OnceLock<String> = OnceLock::new();

/// Adds this name to every panic message.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "without ranks there is one process"))]
pub(crate) fn set_panic_prefix(owner: &str) {
    // It is set only once.
    let _ = OWNER.set(owner.to_owned());
}

/// Installs the panic hook; it prints a backtrace under `RUST_BACKTRACE`.
pub(crate) fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let message = info.payload_as_str().unwrap_or("a value that is no text");
        stderr::write_at_once(&message_of(thread.name(), &place, message, &Backtrace::capture()));
    }));
}

fn message_of(thread: Option<&str>, place: &str, message: &str, backtrace: &Backtrace) -> String {
    let thread = thread.unwrap_or("without a name");
    let owner = OWNER.get().map_or_else(String::new, |owner| format!("{owner}: "));
    let mut lines = vec![format!("error: {owner}thread {thread} panicked at {place}: {message}")];
    lines.push("hint: this is a bug in vit; please report it with the command".to_owned());
    if backtrace.status() == BacktraceStatus::Captured {
        lines.extend(backtrace.to_string().lines().map(str::to_owned));
    }
    lines.iter().map(|line| escaped(line).into_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_panic_message_becomes_one_line_and_a_hint() {
        let message = "index of x\nhint: run\u{1b}[2J";
        let message_of = message_of(Some("saver"), "src/x.rs:1:2", message, &Backtrace::disabled());
        let expected = "error: thread saver panicked at src/x.rs:1:2: index of x\\nhint: run\\u{1b}[2J\n\
                        hint: this is a bug in vit; please report it with the command\n";
        assert_eq!(message_of, expected);
    }
}
