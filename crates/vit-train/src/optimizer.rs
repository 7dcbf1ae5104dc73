//! Adam (Kingma, Ba, arXiv 1412.6980) and AdamW (Loshchilov, Hutter, arXiv 1711.05101), to PyTorch's formulas.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, Var, bail};
use serde::{Deserialize, Serialize};

use crate::{Error, Parameters};

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
    pub fn check(&self) -> std::result::Result<(), Error> {
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

/// Parameters with their moments.
///
/// With gradient `g` at step `t`: `m = m + (1 - β₁)(g - m)`, `v = β₂ v + (1 - β₂) g²`,
/// `p = p - lr / (1 - β₁ᵗ) · m / (sqrt(v) / sqrt(1 - β₂ᵗ) + eps)`.
///
/// PyTorch equivalent: `torch.optim.Adam`, `torch.optim.AdamW`.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    step: u64,
    slots: Vec<Slot>,
}

/// A parameter and its moments.
#[derive(Debug)]
struct Slot {
    var: Var,
    moments: Moments,
}

/// First and second moment, where they are used.
#[derive(Debug)]
enum Moments {
    F32(Vec<f32>, Vec<f32>),
    F64(Vec<f64>, Vec<f64>),
    Tensors(Tensor, Tensor),
}

impl Optimizer {
    /// An optimiser that has taken no step.
    ///
    /// # Errors
    /// If a setting is out of range, or a device has no room for the moments.
    pub fn new(
        config: OptimizerConfig,
        parameters: &Parameters,
    ) -> std::result::Result<Self, Error> {
        config.check()?;
        let slots = parameters
            .iter()
            .map(|(_, var)| Ok(Slot { var: var.clone(), moments: Moments::zeros(var)? }));
        Ok(Self { config, step: 0, slots: slots.collect::<Result<_>>()? })
    }

    /// The learning rate of the next step.
    #[must_use]
    pub const fn lr(&self) -> f64 {
        self.config.lr
    }

    /// Moves each parameter by its gradient; both are in the order given to [`new`](Self::new).
    ///
    /// # Errors
    /// If there are not as many gradients as parameters, or a gradient has another shape.
    pub fn step(&mut self, gradients: &[Tensor]) -> Result<()> {
        if gradients.len() != self.slots.len() {
            bail!("optimiser: expected {} gradients, got {}", self.slots.len(), gradients.len());
        }
        self.step += 1;
        let update = Update::new(&self.config, self.step);
        for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
            if gradient.shape() != slot.var.shape() {
                let (want, got) = (slot.var.shape(), gradient.shape());
                bail!("optimiser: expected a gradient of shape {want:?}, got {got:?}");
            }
            slot.step(gradient, &update)?;
        }
        Ok(())
    }
}

impl Moments {
    fn zeros(var: &Var) -> Result<Self> {
        let len = var.elem_count();
        let (storage, _) = var.storage_and_layout();
        Ok(match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Self::F32(vec![0.0; len], vec![0.0; len]),
            Storage::Cpu(CpuStorage::F64(_)) => Self::F64(vec![0.0; len], vec![0.0; len]),
            _ => Self::Tensors(var.zeros_like()?, var.zeros_like()?),
        })
    }
}

impl Slot {
    fn step(&mut self, gradient: &Tensor, update: &Update) -> Result<()> {
        match &mut self.moments {
            Moments::F32(m, v) => {
                let op = InPlace::new(update.map(|x| x as f32), gradient, m, v);
                self.var.inplace_op1(&op)
            }
            Moments::F64(m, v) => {
                let op = InPlace::new(update.map(|x| x), gradient, m, v);
                self.var.inplace_op1(&op)
            }
            Moments::Tensors(m, v) => composed::step(&self.var, gradient, m, v, update),
        }
    }
}

/// The numbers of one step, as PyTorch rounds them: computed in `f64`, then cast.
#[derive(Clone, Copy, Debug)]
struct Update<T = f64> {
    /// `1 - β₁`
    first: T,
    beta2: T,
    /// `1 - β₂`
    second: T,
    /// `lr / (1 - β₁ᵗ)`
    step_size: T,
    /// `sqrt(1 - β₂ᵗ)`
    second_correction: T,
    eps: T,
    /// What is added to the gradient for each unit of the parameter.
    gradient_decay: T,
    /// `1 - lr λ`
    shrink: T,
}

impl Update {
    fn new(config: &OptimizerConfig, step: u64) -> Self {
        let OptimizerConfig { kind, lr, beta1, beta2, eps, weight_decay } = *config;
        let (gradient_decay, shrink) = match kind {
            OptimizerKind::Adam => (weight_decay, 1.0),
            OptimizerKind::AdamW => (0.0, 1.0 - lr * weight_decay),
        };
        let power = |beta: f64| beta.powf(step as f64);
        Self {
            first: 1.0 - beta1,
            beta2,
            second: 1.0 - beta2,
            step_size: lr / (1.0 - power(beta1)),
            second_correction: (1.0 - power(beta2)).sqrt(),
            eps,
            gradient_decay,
            shrink,
        }
    }

    fn map<T>(&self, cast: impl Fn(f64) -> T) -> Update<T> {
        Update {
            first: cast(self.first),
            beta2: cast(self.beta2),
            second: cast(self.second),
            step_size: cast(self.step_size),
            second_correction: cast(self.second_correction),
            eps: cast(self.eps),
            gradient_decay: cast(self.gradient_decay),
            shrink: cast(self.shrink),
        }
    }
}

/// One pass over a parameter, its gradient and its moments on the CPU.
struct InPlace<'a, T> {
    update: Update<T>,
    gradient: &'a Tensor,
    moments: RefCell<(&'a mut [T], &'a mut [T])>,
}

impl<'a, T> InPlace<'a, T> {
    fn new(update: Update<T>, gradient: &'a Tensor, m: &'a mut [T], v: &'a mut [T]) -> Self {
        Self { update, gradient, moments: RefCell::new((m, v)) }
    }
}

/// `f32` and `f64` differ in nothing but their name.
macro_rules! in_place {
    ($float:ty, $variant:ident) => {
        impl InplaceOp1 for InPlace<'_, $float> {
            fn name(&self) -> &'static str {
                "adam"
            }

            fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
                let gradient = self.gradient.contiguous()?;
                let (storage, gradient_layout) = gradient.storage_and_layout();
                let (
                    CpuStorage::$variant(parameter),
                    Some((start, end)),
                    Storage::Cpu(CpuStorage::$variant(gradient)),
                    Some((gradient_start, _)),
                ) = (
                    parameter,
                    layout.contiguous_offsets(),
                    &*storage,
                    gradient_layout.contiguous_offsets(),
                )
                else {
                    bail!("optimiser: expected a gradient of the parameter's dtype and device");
                };
                let gradient = &gradient[gradient_start..][..end - start];
                let mut moments = self.moments.borrow_mut();
                let (m, v) = &mut *moments;
                let u = &self.update;
                let each = parameter[start..end]
                    .iter_mut()
                    .zip(gradient)
                    .zip(m.iter_mut())
                    .zip(v.iter_mut());
                for (((p, &g), m), v) in each {
                    let g = g + u.gradient_decay * *p;
                    *m += u.first * (g - *m);
                    *v = u.beta2 * *v + u.second * g * g;
                    let scale = v.sqrt() / u.second_correction + u.eps;
                    *p = u.shrink * *p - u.step_size * (*m / scale);
                }
                Ok(())
            }
        }
    };
}
in_place!(f32, F32);
in_place!(f64, F64);

mod composed {
    use super::{Result, Tensor, Update, Var};

    /// The same step out of candle's tensor operations, for other devices and dtypes.
    pub(super) fn step(
        var: &Var,
        gradient: &Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        update: &Update,
    ) -> Result<()> {
        let parameter = var.as_detached_tensor();
        let gradient = (gradient + (&parameter * update.gradient_decay)?)?;
        *m = (&*m + ((&gradient - &*m)? * update.first)?)?;
        *v = ((&*v * update.beta2)? + (gradient.sqr()? * update.second)?)?;
        let scale = ((v.sqrt()? / update.second_correction)? + update.eps)?;
        let moved = ((&*m / scale)? * update.step_size)?;
        var.set(&((parameter * update.shrink)? - moved)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn parameters(dtype: DType) -> Result<Parameters> {
        let values = Tensor::new(&[0.5_f64, -1.0, 2.0], &Device::Cpu)?.to_dtype(dtype)?;
        Ok(vec![("p".to_owned(), Var::from_tensor(&values)?)])
    }

    fn gradient(step: u64, dtype: DType) -> Result<Tensor> {
        let t = step as f64;
        Tensor::new(&[t.sin(), 0.1 * t, -1e-3], &Device::Cpu)?.to_dtype(dtype)
    }

    #[test]
    fn in_place_and_composed_steps_agree() -> std::result::Result<(), Error> {
        for config in [OptimizerConfig::adam(0.1), OptimizerConfig::adamw(0.1, 0.05)] {
            let (fused, composed) = (parameters(DType::F64)?, parameters(DType::F64)?);
            let mut optimizer = Optimizer::new(config, &fused)?;
            let var = &composed[0].1;
            let (mut m, mut v) = (var.zeros_like()?, var.zeros_like()?);
            for step in 1..=10 {
                let gradient = gradient(step, DType::F64)?;
                optimizer.step(std::slice::from_ref(&gradient))?;
                composed::step(var, &gradient, &mut m, &mut v, &Update::new(&config, step))?;
            }
            let [fused, composed] = [&fused[0].1, var].map(|var| var.to_vec1::<f64>());
            for (fused, composed) in fused?.into_iter().zip(composed?) {
                assert!((fused - composed).abs() < 1e-14, "{fused} {composed}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_first_step_of_adam_is_the_learning_rate() -> std::result::Result<(), Error> {
        let parameters = parameters(DType::F32)?;
        Optimizer::new(OptimizerConfig::adam(0.01), &parameters)?
            .step(&[gradient(1, DType::F32)?])?;
        for (moved, begun) in parameters[0].1.to_vec1::<f32>()?.into_iter().zip([0.5, -1.0, 2.0]) {
            assert!(((moved - begun).abs() - 0.01_f32).abs() < 1e-6, "{moved} {begun}");
        }
        Ok(())
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let message = |config: OptimizerConfig| config.check().unwrap_err().to_string();
        assert_eq!(message(OptimizerConfig::adam(-1.0)), "expected lr of at least 0, got -1");
        assert_eq!(message(OptimizerConfig::adam(f64::NAN)), "expected lr of at least 0, got NaN");
        let config = OptimizerConfig { beta2: 1.0, ..OptimizerConfig::adam(0.1) };
        assert_eq!(message(config), "expected beta2 in [0, 1), got 1");
    }
}
