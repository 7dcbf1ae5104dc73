//! CI's check of the CUDA build, with or without a GPU.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::build::{COMPUTE_CAP, Cuda, Origin};
use super::folder;
use super::kit::{Kit, pip_is_there};
use crate::cargo::{cargo, run, target_dir};
use crate::failure::NO_DEVICE;

/// Builds the tests with the kit, and runs what needs no GPU.
pub(crate) fn check() -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the CUDA build needs Linux");
        return Ok(());
    }
    if Kit::under(&target_dir()?).home().is_none() && !pip_is_there() {
        eprintln!("skipped: installing the toolkit needs `python3 -m pip`");
        return Ok(());
    }
    // The tests of stub libraries expect this compute capability.
    let cuda = Cuda::prepare_for(COMPUTE_CAP.to_owned(), Origin::Kit)?;
    let folder = folder::make(&cuda.build_tests()?)?;
    cuda.check_code()?;
    trains(&folder::vit(&folder))?;
    refuses_what_it_cannot_use(&folder::vit(&folder))?;
    runs_only_on_a_gpu(&folder)
}

/// Checks that the CUDA build trains, on the CPU if there is no GPU.
fn trains(vit: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut train = Command::new(vit);
    train.args(["train", "--dataset", "digits", "--max-steps", "3", "--device", "auto"]);
    train.arg("--run-dir").arg(scratch.path().join("run")).stdout(Stdio::null());
    let status = train.status().with_context(|| format!("cannot start {}", vit.display()))?;
    ensure!(status.success(), "`vit train --device auto` of the CUDA build failed ({status})");
    Ok(())
}

/// Runs the tests of this program with stub libraries in place of CUDA.
fn refuses_what_it_cannot_use(vit: &Path) -> Result<()> {
    let mut tests = cargo("test");
    // On the whole workspace, which the test step has built already.
    tests.args(["--locked", "--workspace", "--test=system", "--", "--ignored", "cuda_build::"]);
    run(tests.env("VIT_CUDA_BINARY", vit))
}

/// Checks that the folder's tests pass on a suitable GPU, and report its absence otherwise.
fn runs_only_on_a_gpu(folder: &Path) -> Result<()> {
    let usable = vit_device::find(0, &folder::open(folder)?.build).is_ok();
    let expected = if usable { 0 } else { NO_DEVICE };
    let xtask = folder::xtask(folder);
    let mut tests = Command::new(&xtask);
    // Outside the checkout, as on another machine.
    tests.args(["test-gpu", "--run"]).arg(folder).current_dir("/");
    let status = tests.status().with_context(|| format!("cannot start {}", xtask.display()))?;
    ensure!(
        status.code() == Some(expected.into()),
        "`xtask test-gpu --run`: expected exit code {expected}, got {status}"
    );
    Ok(())
}
