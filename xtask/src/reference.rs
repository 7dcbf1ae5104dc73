//! `cargo xtask reference`: models exchanged with timm, transformers and onnxruntime, in each venv that there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cargo::{build_vit, root};

/// Exchanges models with timm, transformers and onnxruntime, and compares what both sides compute
///
/// Not a part of ci: it needs Python packages. Without a venv, it says how to make one.
#[derive(Args)]
pub(crate) struct Reference {
    /// A Python venv with torch and timm, transformers or onnxruntime; may be given repeatedly, once for each version
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

/// The venv's Python; where there is none, that is said.
fn python_of(venv: &Path) -> Option<PathBuf> {
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        eprintln!(
            "{} has no Python, and is left out: expected {}",
            venv.display(),
            python.display()
        );
        return None;
    }
    Some(python)
}
