//! Learning-rate schedules.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A learning-rate schedule: the learning rate as a function of the step.
///
/// PyTorch equivalents in `torch.optim.lr_scheduler`: a `SequentialLR` of `LinearLR(start_factor=1 / warmup,
/// total_iters=warmup - 1)` and `CosineAnnealingLR(T_max=steps, eta_min=min_lr)`; `OneCycleLR(max_lr=lr,
/// total_steps=steps, pct_start=warmup / steps)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The schedule after the warm-up.
    pub kind: ScheduleKind,
    /// Warm-up steps, in which the learning rate rises to the optimiser's: linearly from 0, or for `one_cycle` along
    /// half a cosine. Default: none; for `one_cycle` three tenths of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// The final learning rate. Default: 0; for `one_cycle` the optimiser's divided by 250,000. Not allowed with a
    /// constant schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Constant.
    #[default]
    Constant,
    /// Falls along half a cosine (SGDR without restarts, arXiv 1608.03983, eq. 5).
    Cosine,
    /// Rises from 1/25 of the peak along half a cosine, then falls along another (Smith, Topin, arXiv 1708.07120).
    #[serde(alias = "one-cycle")]
    OneCycle,
}

/// `OneCycleLR`'s `div_factor`: peak over initial learning rate.
const RISE: f64 = 25.0;
/// `OneCycleLR`'s `final_div_factor`: initial over final learning rate.
const FALL: f64 = 1e4;
/// `OneCycleLR`'s `pct_start`.
const RISING_SHARE: f64 = 0.3;

impl Schedule {
    /// The learning rate of `step` (from 1) of `steps`, with `lr` the optimiser's.
    #[must_use]
    pub fn lr(&self, lr: f64, step: u64, steps: u64) -> f64 {
        // PyTorch counts from 0.
        let (at, steps) = (step.saturating_sub(1) as f64, steps as f64);
        match self.kind {
            ScheduleKind::OneCycle => self.one_cycle(lr, at, steps),
            _ if at < self.warmup() => lr * (at + 1.0) / self.warmup(),
            ScheduleKind::Constant => lr,
            ScheduleKind::Cosine => {
                let falling = (steps - self.warmup()).max(1.0);
                anneal(lr, self.min_lr.unwrap_or(0.0), (at - self.warmup()) / falling)
            }
        }
    }

    fn warmup(&self) -> f64 {
        self.warmup.unwrap_or(0) as f64
    }

    fn one_cycle(&self, lr: f64, at: f64, steps: f64) -> f64 {
        let first = lr / RISE;
        let peak = (self.warmup.map_or(RISING_SHARE * steps, |steps| steps as f64) - 1.0).max(0.0);
        if at < peak {
            return anneal(first, lr, at / peak);
        }
        let falling = (steps - 1.0 - peak).max(1.0);
        anneal(lr, self.min_lr.unwrap_or(first / FALL), (at - peak) / falling)
    }

    /// Checks the ranges, given the optimiser's learning rate.
    ///
    /// # Errors
    /// If a setting is out of range or has no effect.
    pub fn check(&self, lr: f64) -> Result<(), Error> {
        let Some(min_lr) = self.min_lr else { return Ok(()) };
        let expected = if self.kind == ScheduleKind::Constant {
            "only with a schedule that falls"
        } else if (0.0..=lr).contains(&min_lr) {
            return Ok(());
        } else {
            "between 0 and lr"
        };
        Err(Error::Setting { field: "schedule.min_lr", expected, value: min_lr.to_string() })
    }
}

/// Half a cosine from `from` to `to` as `share` goes from 0 to 1.
fn anneal(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * (1.0 + (PI * share.min(1.0)).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule =
        Schedule { kind: ScheduleKind::Cosine, warmup: Some(10), min_lr: Some(0.01) };

    #[test]
    fn warmup_is_linear_then_the_rate_is_constant() {
        let schedule = Schedule { warmup: Some(4), ..Schedule::default() };
        let rates: Vec<f64> = (1..=6).map(|step| schedule.lr(0.8, step, 6)).collect();
        assert_eq!(rates, [0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8]);
        assert_eq!(Schedule::default().lr(3e-4, 1, 1), 3e-4);
    }

    #[test]
    fn rates_stay_between_the_floor_and_the_peak() {
        let one_cycle = Schedule { kind: ScheduleKind::OneCycle, ..COSINE };
        for schedule in [COSINE, one_cycle] {
            // Includes runs shorter than the warm-up.
            for steps in [1, 2, 5, 10, 11, 100] {
                for step in 1..=steps {
                    let lr = schedule.lr(1.0, step, steps);
                    assert!((0.01..=1.0).contains(&lr), "{schedule:?}: {lr} at {step} of {steps}");
                }
            }
            assert_eq!(schedule.lr(1.0, 10, 100), 1.0);
        }
        assert_eq!(one_cycle.lr(1.0, 100, 100), 0.01);
    }

    #[test]
    fn settings_without_effect_are_named() {
        let message = |schedule: Schedule| schedule.check(0.1).unwrap_err().to_string();
        let floor = |kind, min_lr| Schedule { kind, warmup: None, min_lr: Some(min_lr) };
        assert_eq!(
            message(floor(ScheduleKind::Cosine, 0.2)),
            "expected schedule.min_lr between 0 and lr, got 0.2"
        );
        assert_eq!(
            message(floor(ScheduleKind::Constant, 0.0)),
            "expected schedule.min_lr only with a schedule that falls, got 0"
        );
    }
}
