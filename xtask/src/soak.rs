//! Repeats the randomised tests of faults, signals, threads and downloads far more often than CI: five hundred times
//! `kill -9`, for instance.

use anyhow::Result;
use clap::Args;

use crate::cargo::{cargo, run};
use crate::mpi;

/// Modules of these tests: in `vit`, faults, signals, threads and its server; in `vit-fetch`, processes and mirrors.
const TESTS: [&str; 7] =
    ["faults::", "interrupt::", "same_bits::", "serve::", "processes::", "resume::", "mirrors::"];

/// Repeats the tests of faults, signals, threads and downloads far more often than CI
#[derive(Args)]
pub(crate) struct Soak {
    /// Only tests whose name contains this
    filter: Option<String>,
}

impl Soak {
    pub(crate) fn run(&self) -> Result<()> {
        let mut test = cargo("test");
        test.args(["-p", "vit", "--test", "system", "-p", "vit-fetch", "--test", "fetch"]);
        test.args(["--", "--nocapture"]);
        match &self.filter {
            Some(filter) => test.arg(filter),
            None => test.args(TESTS),
        };
        run(test.env("VIT_SOAK", "1"))?;
        if mpi::is_here() {
            mpi::soak(self.filter.as_deref().unwrap_or("kill"))?;
        }
        Ok(())
    }
}
