//! Our crates outside of this workspace: as they are published, and as another project uses them.
//!
//! There each crate is resolved alone, with fewer features than the workspace's union, and so candle is compiled once
//! more. Both tasks take the same settings for that, to share it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{cargo, cargo_in, root, run, stdout_of, target_dir};

/// As little optimisation as lets the consumer train in seconds, and nothing for debuggers.
const PROFILE: [&str; 8] = [
    "debug=false",
    "incremental=false",
    "package.candle-core.opt-level=1",
    "package.gemm-common.opt-level=3",
    "package.gemm-f32.opt-level=3",
    "package.pulp.opt-level=3",
    "package.vit-layers.opt-level=1",
    "package.vit-ops.opt-level=3",
];

/// What every package must hold.
const ALWAYS: [&str; 4] = ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];
/// The only folders in a package, and the files that cargo adds.
const FOLDERS: [&str; 4] = ["benches", "examples", "src", "tests"];
const CARGOS: [&str; 3] = [".cargo_vcs_info.json", "Cargo.lock", "Cargo.toml.orig"];

/// Packs every crate that can be published, looks at what is in it, and builds it from what is in it.
///
/// The binary is left out: it would have the whole tree compiled once more, and nothing depends on it.
pub(crate) fn package() -> Result<()> {
    let published = ["--locked", "--workspace", "--exclude=xtask", "--exclude=vit"];
    // What is being worked on is packed as it is.
    let mut list = cargo("package");
    list.args(published).args(["--allow-dirty", "--list", "--message-format=json", "--quiet"]);
    let lists = stdout_of(&mut list)?;
    for list in serde_json::Deserializer::from_slice(&lists).into_iter() {
        check_list(&list?)?;
    }
    run(with_profile(&mut cargo("package")).args(published).arg("--allow-dirty"))
}

/// Builds and runs the crate of tests/consumer, which trains an encoder with vit-layers and candle alone.
pub(crate) fn consumer() -> Result<()> {
    let manifest = root().join("tests/consumer/Cargo.toml");
    let mut consumer = cargo_in("run", &manifest);
    // Else it would build in a folder of its own.
    consumer.env("CARGO_TARGET_DIR", target_dir()?);
    run(with_profile(&mut consumer).args(["--locked", "--quiet"]))
}

fn with_profile(command: &mut Command) -> &mut Command {
    command.args(PROFILE.map(|setting| format!("--config=profile.dev.{setting}")))
}
