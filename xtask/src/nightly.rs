//! The nightly toolchain, which some tasks need.

use std::process::{Command, Stdio};

use crate::cargo::root;

/// Whether nightly is installed.
pub(crate) fn is_installed() -> bool {
    succeeds(nightly("cargo").arg("--version"))
}

/// A program of the nightly toolchain.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    // Variables set by this cargo do not apply to nightly.
    for name in ["CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command.args(["run", "nightly", program]).current_dir(root());
    command
}

/// Runs a command silently; returns whether it succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
