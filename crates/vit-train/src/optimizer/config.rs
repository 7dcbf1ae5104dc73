//! The optimiser's settings.

use serde::{Deserialize, Serialize};

use crate::Error;

/// The optimiser's settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// What weight decay acts on.
    pub kind: OptimizerKind,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// How strongly parameters are drawn to zero, `λ`.
    pub weight_decay: f64,
    /// Which parameters that are.
    #[serde(default, skip_serializing_if = "Decay::is_all")]
    pub decay: Decay,
}

/// Which parameters weight decay acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// All, as PyTorch does with one group.
    #[default]
    All,
    /// Those of rank 2 or more that are not spared by name: no norm, bias or scale.
    Matrices,
}

impl Decay {
    const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// Whether it is on a parameter of this name and rank, where those named in `spared` are spared.
    pub(super) fn acts_on(self, name: &str, rank: usize, spared: &[&str]) -> bool {
        self == Self::All || (rank > 1 && !spared.contains(&name))
    }
}

/// What weight decay acts on; without it the two are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// The gradient: `g = g + λ p`. PyTorch equivalent: `torch.optim.Adam`.
    Adam,
    /// The parameter: `p = p - lr λ p`. PyTorch equivalent: `torch.optim.AdamW`.
    AdamW,
}

impl OptimizerConfig {
    /// `torch.optim.Adam(lr=lr)`.
    #[must_use]
    pub const fn adam(lr: f64) -> Self {
        Self {
            kind: OptimizerKind::Adam,
            lr,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decay: Decay::All,
        }
    }

    /// `torch.optim.AdamW(lr=lr, weight_decay=weight_decay)`.
    #[must_use]
    pub const fn adamw(lr: f64, weight_decay: f64) -> Self {
        Self { kind: OptimizerKind::AdamW, weight_decay, ..Self::adam(lr) }
    }

    /// Checks the ranges that PyTorch checks.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        let below_one = |value: f64| (0.0..1.0).contains(&value);
        let settings = [
            ("lr", self.lr, not_negative(self.lr), "of at least 0"),
            ("beta1", self.beta1, below_one(self.beta1), "in [0, 1)"),
            ("beta2", self.beta2, below_one(self.beta2), "in [0, 1)"),
            ("eps", self.eps, not_negative(self.eps), "of at least 0"),
            ("weight_decay", self.weight_decay, not_negative(self.weight_decay), "of at least 0"),
        ];
        match settings.into_iter().find(|(_, _, holds, _)| !holds) {
            None => Ok(()),
            Some((field, value, _, expected)) => {
                Err(Error::Setting { field, expected, value: value.to_string() })
            }
        }
    }
}
