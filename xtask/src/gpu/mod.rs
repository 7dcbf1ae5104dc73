//! `cargo xtask test-gpu`: runs the GPU tests here, or packs them for another machine.

mod build;
mod check;
mod folder;
mod kit;
mod run;
mod stubs;
mod toolkit;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

pub(crate) use build::{Cuda, Origin};
pub(crate) use check::check;
use run::Tests;

/// Builds and runs the tests that need an NVIDIA GPU
///
/// It uses the first CUDA toolkit of: PATH, CUDA_HOME, CUDA_PATH, /usr/local, /opt, an installed kit. CUDA_COMPUTE_CAP,
/// such as 90, chooses the GPU to build for; default: the first GPU here. Without a usable GPU, the exit code is 6.
#[derive(Args)]
pub(crate) struct TestGpu {
    /// Build with a toolkit from Python packages, installed under cargo's target folder
    #[arg(long)]
    kit: bool,
    /// Only make a folder of tests, to copy to a machine with a GPU
    #[arg(long, conflicts_with = "args")]
    build_only: bool,
    /// Run the tests in a folder made by --build-only; without Rust: FOLDER/xtask test-gpu --run FOLDER
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["kit", "build_only"])]
    run: Option<PathBuf>,
    /// Arguments of the test binary, such as the name of a test
    #[arg(last = true)]
    args: Vec<OsString>,
}

impl TestGpu {
    pub(crate) fn run(self) -> Result<()> {
        let origin = Origin::of_flag(self.kit);
        if self.build_only {
            folder::make(&Cuda::prepare(origin)?.build_tests()?)?;
            return Ok(());
        }
        let tests = match self.run {
            Some(folder) => folder::open(&folder)?,
            None => build(origin)?,
        };
        tests.run(&self.args)
    }
}

/// Builds the tests, if there is a GPU for them.
fn build(origin: Origin) -> Result<Tests> {
    let built = Cuda::prepare_for_gpu(origin)?.build_tests()?;
    let fixtures = folder::fixtures();
    Ok(Tests { binary: built.tests, vit: built.vit, fixtures, build: built.build })
}
