//! `cargo xtask test-gpu`: the tests that need a GPU, here or in a folder for another machine.

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

/// Builds the tests that need an NVIDIA GPU, and runs them
///
/// nvcc is looked for on the PATH, in CUDA_HOME and CUDA_PATH, in /usr/local and /opt, and in a kit from before.
/// CUDA_COMPUTE_CAP, such as 90, names the GPU to build for; else it is the first one here. Without a GPU that can be
/// used, the exit code is 6.
#[derive(Args)]
pub(crate) struct TestGpu {
    /// Build with a toolkit out of Python packages, installed under cargo's target folder
    #[arg(long)]
    kit: bool,
    /// Make a folder of tests for a machine that has a GPU, and run none
    #[arg(long, conflicts_with = "args")]
    build_only: bool,
    /// Run the tests in a folder that --build-only has made; needs no Rust: FOLDER/xtask test-gpu --run FOLDER
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

/// Builds the tests, where there is a GPU for them.
fn build(origin: Origin) -> Result<Tests> {
    let built = Cuda::prepare_for_gpu(origin)?.build_tests()?;
    let fixtures = folder::fixtures();
    Ok(Tests { binary: built.tests, vit: built.vit, fixtures, build: built.build })
}
