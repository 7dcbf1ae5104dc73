//! The public API of the crates for other projects, compared with a listing of each in docs/api.
//!
//! Only nightly writes rustdoc's JSON, in a format that changes. Without a nightly of the right format the step is
//! skipped, with a message.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use public_api::Builder;
use serde_json::Value;

use crate::cargo::{root, run, target_dir};
use crate::nightly::{self, nightly};

const CRATES: [&str; 9] = [
    "vit-random",
    "vit-ops",
    "vit-patch",
    "vit-layers",
    "vit-model",
    "vit-data",
    "vit-train",
    "vit-run",
    "vit-report",
];
/// The JSON format that this version of the `public-api` crate reads.
const FORMAT: u64 = 57;

/// Compares the public API with the listings in docs/api, or rewrites them
#[derive(Clone, Copy, Args)]
pub(crate) struct Api {
    /// Write the listings instead of comparing them
    #[arg(long)]
    bless: bool,
}

impl Api {
    /// Compares only.
    pub(crate) const COMPARE: Self = Self { bless: false };

    pub(crate) const fn task(self) -> fn() -> Result<()> {
        if self.bless { bless } else { compare }
    }
}

fn bless() -> Result<()> {
    for (name, listing) in listings()?.unwrap_or_default() {
        let path = held(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
        fs::write(&path, listing).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn compare() -> Result<()> {
    let mut changes = Vec::new();
    for (name, listing) in listings()?.unwrap_or_default() {
        let path = held(name);
        let held = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        changes.extend(differences(name, &held, &listing));
    }
    changes.iter().for_each(|change| eprintln!("{change}"));
    ensure!(changes.is_empty(), "{} lines differ from docs/api", changes.len());
    Ok(())
}

/// Path of a crate's listing.
fn held(name: &str) -> PathBuf {
    root().join("docs/api").join(name).with_extension("txt")
}

/// The listing of each crate; `None` if nightly cannot produce them, after a message.
fn listings() -> Result<Option<Vec<(&'static str, String)>>> {
    if !nightly::is_installed() {
        eprintln!("skipped: no nightly toolchain, which alone writes rustdoc's JSON");
        return Ok(None);
    }
    let documentation = document()?;
    let format = format_of(&json(&documentation, CRATES[0]))?;
    if format != FORMAT {
        eprintln!("skipped: expected rustdoc's JSON in format {FORMAT}, got {format}");
        return Ok(None);
    }
    let listings = CRATES.map(|name| Ok((name, listing(&json(&documentation, name))?)));
    listings.into_iter().collect::<Result<_>>().map(Some)
}

/// Writes the JSON of all crates in one build, which shares their dependencies; returns its folder.
fn document() -> Result<PathBuf> {
    let target = target_dir()?.join("api");
    let mut doc = nightly("cargo");
    doc.args(["doc", "--locked", "--no-deps", "--lib"])
        .args(CRATES.map(|name| format!("-p={name}")));
    doc.env("CARGO_TARGET_DIR", &target);
    run(doc.env("RUSTDOCFLAGS", "-Zunstable-options --output-format=json"))?;
    Ok(target.join("doc"))
}

fn json(documentation: &Path, name: &str) -> PathBuf {
    documentation.join(name.replace('-', "_")).with_extension("json")
}

fn format_of(json: &Path) -> Result<u64> {
    let text = fs::read(json).with_context(|| json.display().to_string())?;
    let documentation: Value = serde_json::from_slice(&text)?;
    documentation["format_version"].as_u64().context("rustdoc's JSON has no format_version")
}

/// A line for each public item, without auto traits and blanket implementations.
fn listing(json: &Path) -> Result<String> {
    let builder = Builder::from_rustdoc_json(json).omit_blanket_impls(true);
    let api = builder.omit_auto_trait_impls(true).include_function_parameter_names(true).build();
    Ok(api.with_context(|| json.display().to_string())?.to_string())
}

/// The lines that only one of two listings has, with `-` or `+`.
fn differences(name: &str, held: &str, found: &str) -> Vec<String> {
    let lacks = |listing: &str, line: &str| !listing.lines().any(|other| other == line);
    let gone =
        held.lines().filter(|line| lacks(found, line)).map(|line| format!("{name}: -{line}"));
    let new = found.lines().filter(|line| lacks(held, line)).map(|line| format!("{name}: +{line}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_added_items_are_named() {
        let changes = differences("vit-x", "pub fn a()\npub fn b()\n", "pub fn b()\npub fn c()\n");
        assert_eq!(changes, ["vit-x: -pub fn a()", "vit-x: +pub fn c()"]);
        assert!(differences("vit-x", "pub fn a()\n", "pub fn a()\n").is_empty());
    }
}
