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
    executable(&messages(cargo("build").args(["--package=vit", "--bin=vit"]))?, "vit")
}

/// Runs a build and returns what cargo tells of it, of what is not new too.
pub(crate) fn messages(build: &mut Command) -> Result<Vec<Value>> {
    let messages = stdout_of(build.arg("--message-format=json-render-diagnostics"))?;
    let lines = messages.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// The executables that a build gave.
pub(crate) fn executables(messages: &[Value]) -> impl Iterator<Item = PathBuf> {
    messages.iter().filter_map(executable_of)
}

/// The executable that a build gave of the target of this name.
pub(crate) fn executable(messages: &[Value], target: &str) -> Result<PathBuf> {
    let mut built = messages.iter().filter(|message| message["target"]["name"] == target);
    let built = built.find_map(executable_of);
    built.with_context(|| format!("expected cargo to build the executable {target}, got none"))
}

fn executable_of(message: &Value) -> Option<PathBuf> {
    message["executable"].as_str().map(PathBuf::from)
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
