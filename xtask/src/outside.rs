//! Builds our crates outside the workspace: as published, and as another project uses them.
//!
//! Each crate is then resolved alone, with fewer features than in the workspace, so candle is compiled again.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo::{
    cargo, cargo_at, executable, messages, metadata, root, run, stdout_of, target_dir,
};
use crate::layering::{items, text};

/// Profile of the packages, which are only built, not run.
const BUILT: [&str; 2] = ["debug=false", "incremental=false"];
/// Profile of the consumer: just enough optimisation to train in seconds; no debug information.
const RUN: [&str; 8] = [
    "debug=false",
    "incremental=false",
    "package.candle-core.opt-level=1",
    "package.gemm-common.opt-level=3",
    "package.gemm-f32.opt-level=3",
    "package.pulp.opt-level=3",
    "package.vit-layers.opt-level=1",
    "package.vit-ops.opt-level=3",
];

/// Files required in every package.
const ALWAYS: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];
/// Files that cargo adds.
const FROM_CARGO: [&str; 4] =
    [".cargo_vcs_info.json", "Cargo.lock", "Cargo.toml", "Cargo.toml.orig"];
/// Permitted beside the folders.
const BUILD_SCRIPT: &str = "build.rs";
/// The permitted folders.
const FOLDERS: [&str; 4] = ["benches", "examples", "src", "tests"];
/// Manifest fields that the registry and its users need.
const FIELDS: [&str; 7] =
    ["description", "keywords", "categories", "license", "readme", "rust_version", "metadata"];

/// Packages every publishable crate, checks its files, and builds it from the package.
///
/// The program is left out: it would compile the whole tree again, and no project depends on it.
pub(crate) fn package() -> Result<()> {
    let left_out = ["xtask", "vit"];
    let metadata = metadata()?;
    let mut names = Vec::new();
    for package in items(&metadata["packages"]) {
        let name = text(&package["name"]);
        if left_out.contains(&name) {
            continue;
        }
        let empty = FIELDS.iter().find(|field| is_empty(&package[**field]));
        ensure!(empty.is_none(), "{name}: expected a manifest with {}", empty.unwrap_or(&""));
        let mut list = cargo("package");
        list.args(["--package", name, "--list", "--allow-dirty", "--quiet"]);
        let list = String::from_utf8(stdout_of(&mut list)?)?;
        check_files(list.lines()).with_context(|| format!("the package {name}"))?;
        names.push(name);
    }
    forget_earlier_packages(&names)?;
    let mut package = cargo("package");
    package.env("CARGO_TARGET_DIR", folder()?);
    package.arg("--workspace").args(left_out.map(|name| format!("--exclude={name}")));
    if !is_clean()? {
        // Uncommitted work is packaged as it is.
        package.arg("--allow-dirty");
    }
    run(with_profile(&mut package, &BUILT))
}

/// Whether the working tree is clean.
fn is_clean() -> Result<bool> {
    let mut status = Command::new("git");
    status.args(["status", "--porcelain"]).current_dir(root());
    Ok(status.output().context("cannot start git")?.stdout.is_empty())
}

/// Build folder of both tasks.
fn folder() -> Result<PathBuf> {
    Ok(target_dir()?.join("outside"))
}

/// Removes cargo's copies of earlier packages of these crates.
///
/// Cargo passes packages to each other through a registry in the build folder, and assumes that a registry's versions
/// never change: otherwise it would build against the previous packages.
fn forget_earlier_packages(names: &[&str]) -> Result<()> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let sources = cargo_home.context("no folder of cargo's")?.join("registry/src");
    // A registry in a folder has no host, which is the part of the name before the dash.
    let local =
        entries(&sources)?.into_iter().filter(|registry| name_of(registry).starts_with('-'));
    let mut folders: Vec<PathBuf> = local.collect();
    folders.push(folder()?.join("debug/.fingerprint"));
    for folder in folders {
        for kept in entries(&folder)? {
            let name = name_of(&kept).rsplit_once('-').map_or("", |(name, _)| name);
            if names.contains(&name) {
                fs::remove_dir_all(&kept).with_context(|| kept.display().to_string())?;
            }
        }
    }
    Ok(())
}

/// Entries of a folder; empty if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        found => {
            let paths = found.and_then(|found| found.map(|entry| Ok(entry?.path())).collect());
            paths.with_context(|| folder.display().to_string())
        }
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

fn is_empty(field: &Value) -> bool {
    field.is_null() || field.as_str() == Some("") || field.as_array().is_some_and(Vec::is_empty)
}

/// Checks that a package has the required files, and otherwise only code.
fn check_files<'a>(files: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut missing = Vec::from(ALWAYS);
    for file in files {
        missing.retain(|name| *name != file);
        let folder = file.split_once('/').map(|(folder, _)| folder);
        let known = match folder {
            Some(folder) => FOLDERS.contains(&folder),
            None => ALWAYS.contains(&file) || FROM_CARGO.contains(&file) || file == BUILD_SCRIPT,
        };
        ensure!(known, "expected files of {}, got {file}", FOLDERS.join(", "));
    }
    ensure!(missing.is_empty(), "expected {}, got none", missing.join(", "));
    Ok(())
}

/// Builds and runs tests/consumer, which trains an encoder with only vit-layers and candle.
pub(crate) fn consumer() -> Result<()> {
    let manifest = root().join("tests/consumer/Cargo.toml");
    let mut consumer = cargo_at("run", &manifest);
    consumer.env("CARGO_TARGET_DIR", folder()?);
    run(with_profile(&mut consumer, &RUN).args(["--locked", "--quiet"]))
}

/// Builds tests/consumer's `speed` with its own Cargo.toml, which follows the README: with the README's allocator, and
/// with the system's.
pub(crate) fn build_speed() -> Result<[PathBuf; 2]> {
    let manifest = root().join("tests/consumer/Cargo.toml");
    let build = |folder: &str, features: &[&str]| {
        let mut build = cargo_at("build", &manifest);
        build.env("CARGO_TARGET_DIR", target_dir()?.join(folder));
        build.args(["--locked", "--bin=speed"]).args(features);
        executable(&messages(&mut build)?, "speed")
    };
    Ok([build("speed", &[])?, build("speed-system", &["--no-default-features"])?])
}

fn with_profile<'a>(command: &'a mut Command, settings: &[&str]) -> &'a mut Command {
    command.args(settings.iter().map(|setting| format!("--config=profile.dev.{setting}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(files: &[&str]) -> String {
        check_files(files.iter().copied())
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn missing_and_extra_files_of_a_package_are_named() {
        let whole = ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md", "src/lib.rs"];
        assert_eq!(message(&whole), "");
        assert_eq!(message(&whole[..3]), "expected README.md, got none");
        let stray = [&whole[..], &["notes.txt"]].concat();
        assert_eq!(
            message(&stray),
            "expected files of benches, examples, src, tests, got notes.txt"
        );
        assert!(message(&["runs/1/config.toml"]).ends_with("got runs/1/config.toml"));
    }
}
