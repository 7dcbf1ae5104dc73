//! CI's look at the CUDA build, on a machine that may have no GPU.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::build::{COMPUTE_CAP, Cuda, Origin};
use super::folder;
use super::kit::{Kit, pip_is_there};
use crate::cargo::{cargo, run, target_dir};
use crate::failure::NO_DEVICE;

/// Builds the tests with the kit, and tries what can be tried without a GPU.
pub(crate) fn check() -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the CUDA build is for Linux alone");
        return Ok(());
    }
    if Kit::under(&target_dir()?).home().is_none() && !pip_is_there() {
        eprintln!("skipped: no `python3 -m pip`, which alone installs the toolkit");
        return Ok(());
    }
    // What the tests of stub libraries are written for.
    let cuda = Cuda::prepare_for(COMPUTE_CAP.to_owned(), Origin::Kit)?;
    let folder = folder::make(&cuda.build_tests()?)?;
    cuda.check_code()?;
    trains(&folder::vit(&folder))?;
    refuses_what_it_cannot_use(&folder::vit(&folder))?;
    runs_only_on_a_gpu(&folder)
}

/// Holds the program of the CUDA build to train, on the CPU where there is no GPU.
fn trains(vit: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut train = Command::new(vit);
    train.args(["train", "--dataset", "digits", "--max-steps", "3", "--device", "auto"]);
    train.arg("--run-dir").arg(scratch.path().join("run")).stdout(Stdio::null());
    let status = train.status().with_context(|| format!("cannot start {}", vit.display()))?;
    ensure!(status.success(), "`vit train --device auto` of the CUDA build failed ({status})");
    Ok(())
}

/// Runs the tests of this program on machines of stub libraries.
fn refuses_what_it_cannot_use(vit: &Path) -> Result<()> {
    let mut tests = cargo("test");
    // Of the whole workspace, as the step of all tests has built them.
    tests.args(["--locked", "--workspace", "--test=system", "--", "cuda_build::"]);
    run(tests.env("VIT_CUDA_BINARY", vit))
}

/// Holds the folder to pass where there is a GPU that it was built for, and to say so where there is none.
fn runs_only_on_a_gpu(folder: &Path) -> Result<()> {
    let usable = vit_device::find(0, &folder::open(folder)?.build).is_ok();
    let expected = if usable { 0 } else { NO_DEVICE };
    let xtask = folder::xtask(folder);
    let mut tests = Command::new(&xtask);
    // As on another machine, where nothing of the checkout is near.
    tests.args(["test-gpu", "--run"]).arg(folder).current_dir("/");
    let status = tests.status().with_context(|| format!("cannot start {}", xtask.display()))?;
    ensure!(
        status.code() == Some(expected.into()),
        "`xtask test-gpu --run`: expected exit code {expected}, got {status}"
    );
    Ok(())
}
