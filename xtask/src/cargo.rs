//! Running cargo.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Runs this cargo in the workspace, from any directory.
pub(crate) fn cargo(subcommand: &str) -> Command {
    cargo_at(subcommand, &manifest())
}

/// This cargo on the workspace with this manifest.
pub(crate) fn cargo_at(subcommand: &str, manifest: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` sets variables that some build scripts read. Passed on, they would cause a rebuild after each `cargo
    // build` by hand.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command.arg(subcommand).arg("--manifest-path").arg(manifest);
    command
}

/// `cargo metadata` of this workspace, without dependencies.
pub(crate) fn metadata() -> Result<Value> {
    let metadata = stdout_of(cargo("metadata").args(["--no-deps", "--format-version=1"]))?;
    serde_json::from_slice(&metadata).context("cannot read cargo's metadata")
}

/// Cargo's target folder.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str().map(PathBuf::from);
    folder.context("cargo's metadata has no target_directory")
}

/// Runs a command to success; its output goes to the user.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo failed ({status})");
    Ok(())
}

/// Runs a command to success and returns its stdout; its stderr goes to the user.
pub(crate) fn stdout_of(command: &mut Command) -> Result<Vec<u8>> {
    let Output { status, stdout, .. } =
        command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(status.success(), "cargo failed ({status})");
    Ok(stdout)
}

/// Builds the binary and returns its path, as reported by cargo.
pub(crate) fn build_vit() -> Result<PathBuf> {
    executable(&messages(cargo("build").args(["--package=vit", "--bin=vit"]))?, "vit")
}

/// Runs a build and returns cargo's messages, also about what was up to date.
pub(crate) fn messages(build: &mut Command) -> Result<Vec<Value>> {
    let messages = stdout_of(build.arg("--message-format=json-render-diagnostics"))?;
    let lines = messages.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// The executables of a build.
pub(crate) fn executables(messages: &[Value]) -> impl Iterator<Item = PathBuf> {
    messages.iter().filter_map(executable_of)
}

/// The executable of a build's target with this name.
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

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // `cargo xtask` sets it: two checkouts may share a target folder, and the executable may be the other one's.
        let set = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let xtask = set.filter(|folder| folder.ends_with("xtask"));
        let xtask = xtask.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        xtask.parent().expect("xtask lies in the workspace").to_owned()
    });
    &ROOT
}
