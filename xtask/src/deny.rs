//! Licences, sources and versions of all dependencies, by cargo-deny and what deny.toml says.

use anyhow::Result;

use crate::cargo::{cargo, root, run};
use crate::nightly::succeeds;

/// Checks what needs no network. Without cargo-deny nothing is checked, which is said.
pub(crate) fn check() -> Result<()> {
    if !succeeds(cargo("deny").arg("--version")) {
        eprintln!("skipped: no cargo-deny; install it with `cargo install cargo-deny`");
        return Ok(());
    }
    let mut deny = cargo("deny");
    deny.args(["--all-features", "--locked", "--offline", "check", "--hide-inclusion-graph"]);
    run(deny.args(["licenses", "bans", "sources"]).current_dir(root()))
}
