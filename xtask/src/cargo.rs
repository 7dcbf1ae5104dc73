//! Cargo, as these tasks call it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// This cargo on this workspace, wherever the user stands.
pub(crate) fn cargo(subcommand: &str) -> Command {
    cargo_at(subcommand, &manifest())
}

/// This cargo on the workspace of this manifest.
pub(crate) fn cargo_at(subcommand: &str, manifest: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` describes xtask to it in variables that some build scripts read as well: left in
    // place, they would have such crates built anew after each `cargo build` by hand.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command.arg(subcommand).arg("--manifest-path").arg(manifest);
    command
}

/// What `cargo metadata` says of this workspace alone.
pub(crate) fn metadata() -> Result<Value> {
    let metadata = stdout_of(cargo("metadata").args(["--no-deps", "--format-version=1"]))?;
    serde_json::from_slice(&metadata).context("cannot read cargo's metadata")
}

/// The folder that this cargo builds in.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str().map(PathBuf::from);
    folder.context("cargo's metadata has no target_directory")
}

/// Runs a command whose output is the user's, to its success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo failed ({status})");
    Ok(())
}

/// Runs a command to its success and returns what it printed; errors and progress are the user's.
pub(crate) fn stdout_of(command: &mut Command) -> Result<Vec<u8>> {
    let Output { status, stdout, .. } =
        command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(status.success(), "cargo failed ({status})");
    Ok(stdout)
}

/// Builds the binary and says where it lies, which only cargo knows for sure.
pub(crate) fn build_vit() -> Result<PathBuf> {
    let built = executables(cargo("build").args(["--package=vit", "--bin=vit"]))?;
    built.into_iter().next_back().context("cargo built no executable")
}

/// Runs a build and returns the executables that it gives, new or not.
pub(crate) fn executables(build: &mut Command) -> Result<Vec<PathBuf>> {
    let messages = stdout_of(build.arg("--message-format=json-render-diagnostics"))?;
    let messages = messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    Ok(messages.filter_map(|message| Some(message["executable"].as_str()?.into())).collect())
}

/// The workspace's Cargo.toml.
fn manifest() -> PathBuf {
    root().join("Cargo.toml")
}

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask lies in the workspace")
}
