//! Builds and runs every example.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::{cargo, executables, messages, root};

/// Runs all examples; each must exit with success.
pub(crate) fn run_all() -> Result<()> {
    check_book()?;
    let scratch = tempfile::tempdir()?;
    // With the profile and features of the tests, which have built the dependencies already.
    let build = ["--locked", "--workspace", "--examples", "--profile=test"];
    for example in executables(&messages(cargo("build").args(build))?) {
        run(&example, scratch.path())?;
    }
    Ok(())
}

/// Checks that the book's program equals the example.
fn check_book() -> Result<()> {
    let text = |path: &str| fs::read_to_string(root().join(path)).with_context(|| path.to_owned());
    let example = text("crates/vit-layers/examples/first_steps.rs")?;
    let begin = example.find("\nuse ").context("first_steps uses something")?;
    let same = text("docs/book/layers.md")?.contains(&format!("```rust{}```", &example[begin..]));
    ensure!(
        same,
        "expected docs/book/layers.md to contain the program of first_steps.rs, got another program"
    );
    Ok(())
}

fn run(example: &Path, scratch: &Path) -> Result<()> {
    let name =
        example.file_stem().and_then(|name| name.to_str()).context("an example has a name")?;
    let mut command = Command::new(example);
    if name == "contact_sheet" {
        command.arg("digits.png");
    }
    let status = command.current_dir(scratch).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start the example {name}"))?;
    ensure!(status.success(), "the example {name} failed ({status})");
    eprintln!("{name} passed");
    Ok(())
}
