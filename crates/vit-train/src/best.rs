//! Tracks the best epoch on the validation split.

use serde::{Deserialize, Serialize};

use crate::EpochMetrics;

/// The best epoch so far: highest validation accuracy; ties go to the lower loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Best {
    /// Epoch, accuracy, loss.
    best: Option<(u64, f64, f64)>,
}

impl Best {
    /// The best epoch, if any.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.best.map(|(epoch, ..)| epoch)
    }

    /// The best of these epochs.
    #[must_use]
    pub fn of(epochs: &[EpochMetrics]) -> Self {
        let mut best = Self::default();
        for epoch in epochs {
            best.improves(epoch);
        }
        best
    }

    /// Adds an epoch; returns whether it is the best so far. Without a validation split no epoch is.
    pub(crate) fn improves(&mut self, epoch: &EpochMetrics) -> bool {
        let (Some(accuracy), Some(loss)) = (epoch.val_accuracy, epoch.val_loss) else {
            return false;
        };
        let better = self.best.is_none_or(|(_, best, best_loss)| {
            accuracy > best || (accuracy == best && loss < best_loss)
        });
        if better {
            self.best = Some((epoch.epoch, accuracy, loss));
        }
        better
    }

    /// Whether the best epoch is `patience` or more epochs ago.
    pub(crate) fn is_past(&self, epoch: u64, patience: u64) -> bool {
        self.best.is_some_and(|(best, ..)| epoch.saturating_sub(best) >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u64, validated: Option<(f64, f64)>) -> EpochMetrics {
        EpochMetrics {
            epoch,
            step: epoch,
            train_loss: 1.0,
            train_accuracy: 0.5,
            val_loss: validated.map(|(_, loss)| loss),
            val_accuracy: validated.map(|(accuracy, _)| accuracy),
            test_loss: Some(1.0 / epoch as f64),
            test_accuracy: Some(0.5),
            images_per_second: 1.0,
            waiting_seconds: None,
            seconds: 1.0,
        }
    }

    #[test]
    fn the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss() {
        let mut best = Best::default();
        let validated = [(0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5), (0.5, 0.1)];
        let improves = (1..)
            .zip(validated)
            .map(|(number, values)| best.improves(&epoch(number, Some(values))));
        assert_eq!(improves.collect::<Vec<_>>(), [true, true, true, false, false]);
        assert!(!best.is_past(4, 2) && best.is_past(5, 2));
    }

    #[test]
    fn test_metrics_do_not_affect_the_choice() {
        let mut best = Best::default();
        assert!(!best.improves(&epoch(1, None)) && !best.improves(&epoch(2, None)));
        assert!(!best.is_past(9, 1));
    }
}
