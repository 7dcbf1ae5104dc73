//! The nightly toolchain, where it is installed: some tasks want what is not stable.

use std::process::{Command, Stdio};

use crate::cargo::root;

/// Whether it is.
pub(crate) fn is_installed() -> bool {
    succeeds(nightly("cargo").arg("--version"))
}

/// A program of it.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    // What this cargo says of itself is not nightly's.
    for name in ["CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command.args(["run", "nightly", program]).current_dir(root());
    command
}

/// Whether a command succeeds, of which nothing is shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
