//! How training goes.

use serde::{Deserialize, Serialize};

use crate::{Error, OptimizerConfig, Schedule};

/// How training goes. With the same configuration, parameters and data, every number comes out the same, whatever
/// the number of threads. Fields may be added: begin with [`new`](Self::new), `TrainConfig { seed: 7, ..TrainConfig::new(3, optimizer) }`.
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
    /// Pieces that a batch is cut into, each computed on one thread of one rank. It sets the order of sums, and so the bits.
    pub shards: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps between two records, counted from each epoch's start.
    pub log_every: u64,
    /// Batches whose gradients are added up for a step: with `n` the step is that of a batch `n` times as large in
    /// `n` times as many shards, to the bit, in the memory of one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: u64,
    /// Epochs between two evaluations; the last epoch is always evaluated. Default: 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub evaluate_every: u64,
    /// The share of each label that is spread over all classes in training, with the default loss.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub label_smoothing: f64,
    /// What the norm of all gradients together is cut down to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// The decay of an EMA (exponential moving average) of the weights, which is then evaluated and saved
    /// ([`Trainer::weights`](crate::Trainer::weights)). Training goes on with the parameters themselves, which are lost at
    /// its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Ends the run after so many epochs without one that is better on the validation samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// How the optimiser's learning rate goes over the run.
    #[serde(default)]
    pub schedule: Schedule,
    /// The optimiser's settings.
    pub optimizer: OptimizerConfig,
}

const fn one() -> u64 {
    1
}

const fn is_one(value: &u64) -> bool {
    *value == 1
}

const fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl TrainConfig {
    /// So many epochs of batches of 64 in 4 shards at the optimiser's learning rate, with seed 0 and a record after
    /// every hundredth step.
    #[must_use]
    pub fn new(epochs: u64, optimizer: OptimizerConfig) -> Self {
        Self {
            epochs,
            max_steps: None,
            batch_size: 64,
            shards: 4,
            seed: 0,
            log_every: 100,
            accumulate: 1,
            evaluate_every: 1,
            label_smoothing: 0.0,
            clip: None,
            ema: None,
            patience: None,
            schedule: Schedule::default(),
            optimizer,
        }
    }

    /// Training samples that a step takes.
    #[must_use]
    pub fn samples_of_step(&self) -> usize {
        let batches = usize::try_from(self.accumulate).unwrap_or(usize::MAX);
        self.batch_size.saturating_mul(batches)
    }

    /// Shards that a step is computed in: as many ranks can share it.
    #[must_use]
    pub fn shards_of_step(&self) -> usize {
        let batches = usize::try_from(self.accumulate).unwrap_or(usize::MAX);
        self.shards.min(self.batch_size).saturating_mul(batches)
    }

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
            ("accumulate", self.accumulate),
            ("evaluate_every", self.evaluate_every),
            ("patience", self.patience.unwrap_or(1)),
        ];
        for (field, value) in counts {
            if value == 0 {
                let (expected, value) = ("of at least 1", value.to_string());
                return Err(Error::Setting { field, expected, value });
            }
        }
        let clip = self.clip.unwrap_or(1.0);
        let ema = self.ema.unwrap_or(0.0);
        let within = |value: f64| (0.0..1.0).contains(&value);
        let rates = [
            ("label_smoothing", self.label_smoothing, within(self.label_smoothing), "in [0, 1)"),
            ("clip", clip, clip > 0.0 && clip.is_finite(), "above 0"),
            ("ema", ema, within(ema), "in [0, 1)"),
        ];
        if let Some((field, value, _, expected)) = rates.into_iter().find(|rate| !rate.2) {
            return Err(Error::Setting { field, expected, value: value.to_string() });
        }
        self.optimizer.check()?;
        self.schedule.check(self.optimizer.lr)
    }
}
