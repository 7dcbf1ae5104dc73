//! Faults that are random, met far more often than in CI: `kill -9` five hundred times, among others.

use anyhow::Result;
use clap::Args;

use crate::cargo::{cargo, run};

/// Meets the faults of tests/faults far more often than CI does
#[derive(Args)]
pub(crate) struct Soak {
    /// Only tests whose name contains this
    #[arg(default_value = "faults::")]
    filter: String,
}

impl Soak {
    pub(crate) fn run(&self) -> Result<()> {
        let mut test = cargo("test");
        test.args(["-p", "vit", "--test", "system", "--", "--nocapture", &self.filter]);
        run(test.env("VIT_SOAK", "1"))
    }
}
