//! All that a run or a download may meet, and what is random of it far more often than in CI: `kill -9` five hundred
//! times, among others.

use anyhow::Result;
use clap::Args;

use crate::cargo::{cargo, run};
use crate::mpi;

/// Where these tests are: of `vit`, faults, signals, numbers of threads, and its server; of `vit-fetch`, processes and mirrors.
const TESTS: [&str; 7] =
    ["faults::", "interrupt::", "same_bits::", "serve::", "processes::", "resume::", "mirrors::"];

/// Meets faults, signals, numbers of threads and downloads; what is random of it far more often than CI does
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
