//! `cargo xtask reference`: exchanges models with timm, transformers and onnxruntime, in each given venv.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cargo::{build_vit, root};

/// Exchanges models with timm, transformers and onnxruntime, and compares outputs
///
/// Not part of ci: it needs Python packages. Without a venv, it prints how to make one.
#[derive(Args)]
pub(crate) struct Reference {
    /// A Python venv with torch and timm, transformers or onnxruntime; repeat it for more versions
    #[arg(long, value_name = "DIR")]
    venv: Vec<PathBuf>,
}

const SCRIPTS: [&str; 2] = ["check_interchange.py", "check_onnx.py"];

const NO_VENV: &str = "\
nothing is compared without --venv. To make one for each version of transformers:
    python3 -m venv target/reference
    target/reference/bin/pip install -r tests/reference/requirements.txt
    python3 -m venv target/transformers-4
    target/transformers-4/bin/pip install -r tests/reference/requirements-transformers-4.txt";

impl Reference {
    pub(crate) fn run(self) -> Result<()> {
        let pythons: Vec<PathBuf> = self.venv.iter().filter_map(|venv| python_of(venv)).collect();
        if pythons.is_empty() {
            eprintln!("{NO_VENV}");
            return Ok(());
        }
        let vit = build_vit()?;
        for python in pythons {
            eprintln!("[{}]", python.display());
            for script in SCRIPTS {
                let script = root().join("tests/reference").join(script);
                let status = Command::new(&python).arg(script).arg(&vit).status();
                let status =
                    status.with_context(|| format!("cannot start {}", python.display()))?;
                ensure!(status.success(), "the check in {} failed ({status})", python.display());
            }
        }
        Ok(())
    }
}

/// The venv's Python; `None` after a message if it has none.
fn python_of(venv: &Path) -> Option<PathBuf> {
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        eprintln!("skipped {}: expected its Python at {}", venv.display(), python.display());
        return None;
    }
    Some(python)
}
