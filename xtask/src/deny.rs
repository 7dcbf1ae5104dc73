//! Licences, sources and versions of all dependencies, checked by cargo-deny with deny.toml.

use anyhow::Result;

use crate::cargo::{cargo, root, run};
use crate::nightly::succeeds;

/// Runs the checks that need no network; skipped with a message if cargo-deny is not installed.
pub(crate) fn check() -> Result<()> {
    if !succeeds(cargo("deny").arg("--version")) {
        eprintln!("skipped: no cargo-deny; install it with `cargo install cargo-deny`");
        return Ok(());
    }
    let mut deny = cargo("deny");
    deny.args(["--all-features", "--locked", "--offline", "check", "--hide-inclusion-graph"]);
    run(deny.args(["licenses", "bans", "sources"]).current_dir(root()))
}
