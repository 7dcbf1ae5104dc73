//! Loss and accuracy over some steps.

use serde::{Deserialize, Serialize};

/// Sums over the samples of some steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sums {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// Number of correctly classified samples.
    pub correct: usize,
    /// Number of samples.
    pub samples: usize,
}

impl Sums {
    pub(crate) fn add(&mut self, more: &Self) {
        self.loss_sum += more.loss_sum;
        self.correct += more.correct;
        self.samples += more.samples;
    }

    /// Mean loss and accuracy, if there are samples.
    pub(crate) fn means(&self) -> Option<(f64, f64)> {
        (self.samples > 0).then(|| (self.loss(), self.accuracy()))
    }

    /// Mean loss of a sample.
    pub(crate) fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Share of correctly classified samples.
    pub(crate) fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}
