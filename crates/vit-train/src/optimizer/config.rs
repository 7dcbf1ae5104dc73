//! Optimiser settings.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Optimiser settings. Fields may be added, so start from a constructor: `OptimizerConfig { eps,
/// ..OptimizerConfig::adam(lr) }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The update rule.
    pub kind: OptimizerKind,
    /// Learning rate.
    pub lr: f64,
    /// Adam, AdamW: decay of the first moment. Default: 0.9.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Adam, AdamW: decay of the second moment. Default: 0.999.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Adam, AdamW: added to the root of the second moment. Default: 1e-8.
    #[serde(default = "eps")]
    pub eps: f64,
    /// SGD: momentum, from 0 below 1. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub momentum: f64,
    /// SGD: Nesterov momentum. Default: off.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nesterov: bool,
    /// Weight decay, `λ`. Default: 0.
    pub weight_decay: f64,
    /// The parameters that have weight decay, unless their [`Group`](crate::Group) sets its own. Default: all.
    #[serde(default, skip_serializing_if = "Decay::is_all")]
    pub decay: Decay,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

const fn beta1() -> f64 {
    BETA1
}

const fn beta2() -> f64 {
    BETA2
}

const fn eps() -> f64 {
    EPS
}

const fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

const fn is_false(value: &bool) -> bool {
    !*value
}

/// The parameters that have weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// All parameters, like PyTorch with one group.
    #[default]
    All,
    /// Parameters with two or more dimensions: no biases, norms or layer scales.
    Matrices,
}

impl Decay {
    const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam (Kingma, Ba, arXiv 1412.6980), with weight decay added to the gradient: `g = g + λ p`. PyTorch equivalent:
    /// `torch.optim.Adam`.
    Adam,
    /// Adam with decoupled weight decay: `p = p - lr λ p` (Loshchilov, Hutter, arXiv 1711.05101). PyTorch equivalent:
    /// `torch.optim.AdamW`.
    AdamW,
    /// Stochastic gradient descent with momentum, and weight decay added to the gradient. PyTorch equivalent:
    /// `torch.optim.SGD`.
    Sgd,
}

impl OptimizerConfig {
    /// `torch.optim.Adam(lr=lr)`.
    #[must_use]
    pub const fn adam(lr: f64) -> Self {
        Self {
            kind: OptimizerKind::Adam,
            lr,
            beta1: BETA1,
            beta2: BETA2,
            eps: EPS,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            decay: Decay::All,
        }
    }

    /// `torch.optim.AdamW(lr=lr, weight_decay=weight_decay)`.
    #[must_use]
    pub const fn adamw(lr: f64, weight_decay: f64) -> Self {
        Self { kind: OptimizerKind::AdamW, weight_decay, ..Self::adam(lr) }
    }

    /// `torch.optim.SGD(lr=lr, momentum=momentum)`.
    #[must_use]
    pub const fn sgd(lr: f64, momentum: f64) -> Self {
        Self { kind: OptimizerKind::Sgd, momentum, ..Self::adam(lr) }
    }

    /// Number of tensors the optimiser keeps for each parameter.
    pub(crate) fn moments(&self) -> usize {
        match self.kind {
            OptimizerKind::Adam | OptimizerKind::AdamW => 2,
            OptimizerKind::Sgd => usize::from(self.momentum != 0.0),
        }
    }

    /// Checks the ranges that PyTorch checks.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        let below_one = |value: f64| (0.0..1.0).contains(&value);
        let is_sgd = self.kind == OptimizerKind::Sgd;
        let settings = [
            ("lr", self.lr, not_negative(self.lr), "of at least 0"),
            ("beta1", self.beta1, below_one(self.beta1), "in [0, 1)"),
            ("beta2", self.beta2, below_one(self.beta2), "in [0, 1)"),
            ("eps", self.eps, not_negative(self.eps), "of at least 0"),
            ("momentum", self.momentum, below_one(self.momentum), "in [0, 1)"),
            ("momentum", self.momentum, is_sgd || self.momentum == 0.0, "only with kind sgd"),
            (
                "momentum",
                self.momentum,
                !self.nesterov || self.momentum > 0.0,
                "above 0 with nesterov",
            ),
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
