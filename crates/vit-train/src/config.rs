//! How training goes.

use serde::{Deserialize, Serialize};

use crate::{Error, OptimizerConfig};

/// How training goes. With the same configuration, parameters and data, every number comes out the same, whatever
/// the number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training samples.
    pub epochs: u64,
    /// Ends the run after this many steps.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_steps: Option<u64>,
    /// Samples in a step; a last partial batch is dropped.
    pub batch_size: usize,
    /// Pieces that a batch is cut into, each computed on one thread. It sets the order of sums, and so the bits.
    pub shards: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps between two records, counted from each epoch's start.
    pub log_every: u64,
    /// The optimiser's settings.
    pub optimizer: OptimizerConfig,
}

impl TrainConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let counts = [
            ("epochs", self.epochs),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("batch_size", self.batch_size as u64),
            ("shards", self.shards as u64),
            ("log_every", self.log_every),
        ];
        for (field, value) in counts {
            if value == 0 {
                let (expected, value) = ("of at least 1", value.to_string());
                return Err(Error::Setting { field, expected, value });
            }
        }
        self.optimizer.check()
    }
}
