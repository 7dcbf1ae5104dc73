//! The arithmetic of one step: one pass over slices on the CPU, tensor operations elsewhere.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use super::{OptimizerConfig, OptimizerKind};

/// One step's numbers for one group, rounded like PyTorch's: computed in `f64`, then cast.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Update<T = f64> {
    Adam(Adam<T>),
    Sgd(Sgd<T>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam<T> {
    /// `1 - β₁`
    pub(crate) first: T,
    pub(crate) beta2: T,
    /// `1 - β₂`
    pub(crate) second: T,
    /// `lr / (1 - β₁ᵗ)`
    pub(crate) step_size: T,
    /// `sqrt(1 - β₂ᵗ)`
    pub(crate) second_correction: T,
    pub(crate) eps: T,
    /// Weight decay added to the gradient: `λ`, or 0 for AdamW.
    pub(crate) gradient_decay: T,
    /// `1 - lr λ`
    pub(crate) shrink: T,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sgd<T> {
    lr: T,
    /// `μ`; at 0 no momentum is kept.
    momentum: T,
    nesterov: bool,
    gradient_decay: T,
}

impl Update {
    /// For step `step`, from 1, with this learning rate and weight decay.
    pub(crate) fn new(config: &OptimizerConfig, step: u64, lr: f64, weight_decay: f64) -> Self {
        let OptimizerConfig { kind, beta1, beta2, eps, momentum, nesterov, .. } = *config;
        let (gradient_decay, shrink) = match kind {
            OptimizerKind::Sgd => {
                return Self::Sgd(Sgd { lr, momentum, nesterov, gradient_decay: weight_decay });
            }
            OptimizerKind::Adam => (weight_decay, 1.0),
            OptimizerKind::AdamW => (0.0, 1.0 - lr * weight_decay),
        };
        let power = |beta: f64| beta.powf(step as f64);
        Self::Adam(Adam {
            first: 1.0 - beta1,
            beta2,
            second: 1.0 - beta2,
            step_size: lr / (1.0 - power(beta1)),
            second_correction: (1.0 - power(beta2)).sqrt(),
            eps,
            gradient_decay,
            shrink,
        })
    }

    pub(super) fn map<T>(&self, cast: impl Fn(f64) -> T) -> Update<T> {
        match *self {
            Self::Adam(adam) => Update::Adam(adam.map(cast)),
            Self::Sgd(Sgd { lr, momentum, nesterov, gradient_decay }) => Update::Sgd(Sgd {
                lr: cast(lr),
                momentum: cast(momentum),
                nesterov,
                gradient_decay: cast(gradient_decay),
            }),
        }
    }
}

impl Adam<f64> {
    pub(crate) fn map<T>(&self, cast: impl Fn(f64) -> T) -> Adam<T> {
        Adam {
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

/// Updates a parameter, its gradient and its moments in one pass on the CPU.
pub(super) struct InPlace<'a, T> {
    update: Update<T>,
    gradient: &'a Tensor,
    /// Index of the parameter element that the first gradient element belongs to.
    first: usize,
    moments: RefCell<&'a mut [Vec<T>]>,
}

impl<'a, T> InPlace<'a, T> {
    pub(super) fn new(
        update: Update<T>,
        (gradient, first): (&'a Tensor, usize),
        moments: &'a mut [Vec<T>],
    ) -> Self {
        Self { update, gradient, first, moments: RefCell::new(moments) }
    }
}

/// The same code for `f32` and `f64`.
macro_rules! in_place {
    ($float:ty, $variant:ident) => {
        impl InplaceOp1 for InPlace<'_, $float> {
            fn name(&self) -> &'static str {
                "optimizer"
            }

            fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
                let gradient = self.gradient.contiguous()?;
                let (storage, gradient_layout) = gradient.storage_and_layout();
                let (
                    CpuStorage::$variant(parameter),
                    Some((start, _)),
                    Storage::Cpu(CpuStorage::$variant(gradient)),
                    Some((gradient_start, gradient_end)),
                ) = (
                    parameter,
                    layout.contiguous_offsets(),
                    &*storage,
                    gradient_layout.contiguous_offsets(),
                )
                else {
                    bail!("optimiser: expected a gradient of the parameter's dtype and device");
                };
                let gradient = &gradient[gradient_start..gradient_end];
                let parameter = &mut parameter[start + self.first..][..gradient.len()];
                let each = parameter.iter_mut().zip(gradient);
                match (&self.update, &mut **self.moments.borrow_mut()) {
                    (Update::Adam(u), [m, v]) => {
                        for (((p, &g), m), v) in each.zip(m).zip(v) {
                            let g = g + u.gradient_decay * *p;
                            *m += u.first * (g - *m);
                            *v = u.beta2 * *v + u.second * g * g;
                            let scale = v.sqrt() / u.second_correction + u.eps;
                            *p = u.shrink * *p - u.step_size * (*m / scale);
                        }
                    }
                    (Update::Sgd(u), [momentum]) => {
                        for ((p, &g), b) in each.zip(momentum) {
                            let g = g + u.gradient_decay * *p;
                            *b = u.momentum * *b + g;
                            *p -= u.lr * if u.nesterov { g + u.momentum * *b } else { *b };
                        }
                    }
                    (Update::Sgd(u), []) => {
                        for (p, &g) in each {
                            *p -= u.lr * (g + u.gradient_decay * *p);
                        }
                    }
                    (_, moments) => {
                        bail!("optimiser: expected moments of its kind, got {}", moments.len())
                    }
                }
                Ok(())
            }
        }
    };
}
in_place!(f32, F32);
in_place!(f64, F64);

pub(super) mod composed {
    use candle_core::{Result, Tensor, bail};

    use super::Update;
    use candle_core::Var;

    /// The same step in candle's tensor operations, for other devices and dtypes.
    pub(in crate::optimizer) fn step(
        var: &Var,
        gradient: &Tensor,
        moments: &mut [Tensor],
        update: &Update,
    ) -> Result<()> {
        let parameter = var.as_detached_tensor();
        match (update, moments) {
            (Update::Adam(u), [m, v]) => {
                let gradient = (gradient + (&parameter * u.gradient_decay)?)?;
                *m = (&*m + ((&gradient - &*m)? * u.first)?)?;
                *v = ((&*v * u.beta2)? + (gradient.sqr()? * u.second)?)?;
                let scale = ((v.sqrt()? / u.second_correction)? + u.eps)?;
                let moved = ((&*m / scale)? * u.step_size)?;
                var.set(&((parameter * u.shrink)? - moved)?)
            }
            (Update::Sgd(u), moments) => {
                let gradient = (gradient + (&parameter * u.gradient_decay)?)?;
                let direction = match moments {
                    [] => gradient,
                    [b, ..] => {
                        *b = ((&*b * u.momentum)? + &gradient)?;
                        if u.nesterov { (gradient + (&*b * u.momentum)?)? } else { b.clone() }
                    }
                };
                var.set(&(parameter - (direction * u.lr)?)?)
            }
            (Update::Adam(_), moments) => {
                bail!("optimiser: expected two moments, got {}", moments.len())
            }
        }
    }
}
