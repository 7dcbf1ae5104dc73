//! One step's arithmetic: in one pass over slices on the CPU, out of tensor operations elsewhere.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use super::{OptimizerConfig, OptimizerKind};

/// The numbers of one step, as PyTorch rounds them: computed in `f64`, then cast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update<T = f64> {
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
    pub(super) fn new(config: &OptimizerConfig, step: u64) -> Self {
        let OptimizerConfig { kind, lr, beta1, beta2, eps, weight_decay, decay: _ } = *config;
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

    #[cfg(feature = "cuda")]
    pub(super) fn on_gpu(&self) -> vit_ops::cuda::AdamUpdate {
        let update = self.map(|x| x as f32);
        vit_ops::cuda::AdamUpdate {
            first: update.first,
            beta2: update.beta2,
            second: update.second,
            step_size: update.step_size,
            second_correction: update.second_correction,
            eps: update.eps,
            gradient_decay: update.gradient_decay,
            shrink: update.shrink,
            average_share: 0.0,
        }
    }

    pub(super) fn map<T>(&self, cast: impl Fn(f64) -> T) -> Update<T> {
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
pub(super) struct InPlace<'a, T> {
    update: Update<T>,
    gradient: &'a Tensor,
    moments: RefCell<(&'a mut [T], &'a mut [T])>,
}

impl<'a, T> InPlace<'a, T> {
    pub(super) fn new(
        update: Update<T>,
        gradient: &'a Tensor,
        m: &'a mut [T],
        v: &'a mut [T],
    ) -> Self {
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

pub(super) mod composed {
    use super::{Result, Tensor, Update};
    use candle_core::Var;

    /// The same step out of candle's tensor operations, for other devices and dtypes.
    pub(in crate::optimizer) fn step(
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
