//! Training settings.

use serde::{Deserialize, Serialize};

use crate::{Error, OptimizerConfig, Schedule};

/// Training settings. The same settings, parameters and data give the same bits for any number of threads. Fields may
/// be added, so start from [`new`](Self::new): `TrainConfig { seed: 7, ..TrainConfig::new(3, optimizer) }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Number of passes over the training samples.
    pub epochs: u64,
    /// Ends the run after this many steps.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_steps: Option<u64>,
    /// Samples per step; an incomplete last batch is dropped.
    pub batch_size: usize,
    /// Number of shards that a batch is divided into. One thread of one rank takes each, or
    /// [several at once](crate::TrainerBuilder::join_shards); threads without one take part in large operations. It sets
    /// the order of summation, and so the bits.
    pub shards: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Steps between two records, counted from each epoch's start.
    pub log_every: u64,
    /// Batches whose gradients are accumulated for a step. With `n`, a step is bit-identical to one on a batch and
    /// number of shards `n` times as large, in the memory of one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: u64,
    /// Epochs between two evaluations; the last epoch is always evaluated. Default: 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub evaluate_every: u64,
    /// Label smoothing: share of each label spread over all classes in training, with the default loss. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub label_smoothing: f64,
    /// Gradient clipping: largest norm of all gradients together. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Decay of an EMA (exponential moving average) of the weights. If set, the averages are evaluated and saved
    /// ([`Trainer::weights`](crate::Trainer::weights)). Training continues from the raw parameters, which are discarded
    /// at the end. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Early stopping: ends the run after this many epochs without a better validation result. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// The learning-rate schedule.
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
    /// Settings for this many epochs with batch size 64, 4 shards, the optimiser's learning rate, seed 0 and a record
    /// every 100 steps.
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

    /// Number of training samples in a step.
    #[must_use]
    pub fn samples_of_step(&self) -> usize {
        let batches = usize::try_from(self.accumulate).unwrap_or(usize::MAX);
        self.batch_size.saturating_mul(batches)
    }

    /// Number of shards in a step, and so the most ranks that can share it.
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
