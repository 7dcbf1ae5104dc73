//! One AdamW step on one parameter, in one pass (Loshchilov, Hutter, arXiv 1711.05101).

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, Var, bail};

use crate::{parallel, simd, slices};

/// The settings of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// The step number, from 1.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, which is multiplied by the learning rate.
    pub weight_decay: f64,
}

/// `m = m + (1 - β₁)(g - m)`, `v = β₂ v + (1 - β₂) g²`,
/// `p = (1 - lr λ) p - lr / (1 - β₁ᵗ) · m / (sqrt(v) / sqrt(1 - β₂ᵗ) + eps)`.
///
/// PyTorch equivalent: a step of `torch.optim.AdamW`; without weight decay, of `torch.optim.Adam`.
///
/// # Shapes
/// `parameter` and `gradient` of one shape, contiguous `f32` on the CPU; `moments`, as many numbers each
///
/// # Errors
/// If shapes, dtype or device differ.
pub fn adam_step(
    parameter: &Var,
    gradient: &Tensor,
    moments: &mut [Vec<f32>; 2],
    step: &AdamStep,
) -> Result<()> {
    let shape = parameter.shape();
    let fits = moments.iter().all(|moment| moment.len() == shape.elem_count());
    if gradient.shape() != shape || !fits {
        let [m, v] = moments.each_ref().map(Vec::len);
        bail!(
            "adam step: expected a gradient of shape {shape:?} and moments of as many numbers, got {:?}, {m} and {v}",
            gradient.shape()
        );
    }
    let gradient = gradient.contiguous()?;
    let [m, v] = moments;
    parameter.inplace_op1(&InPlace {
        gradient: &gradient,
        moments: RefCell::new((m, v)),
        step: *step,
    })
}

struct InPlace<'a> {
    gradient: &'a Tensor,
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
    step: AdamStep,
}

/// Numbers per piece.
const CHUNK: usize = 16_384;

/// Cost of a number in multiply-adds, for [`parallel`].
const COST: usize = 16;

impl InplaceOp1 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "adam-step"
    }

    fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(parameter), Some((start, end))) =
            (parameter, layout.contiguous_offsets())
        else {
            bail!("adam step: expected a contiguous parameter of f32");
        };
        let AdamStep { step, lr, beta1, beta2, eps, weight_decay } = self.step;
        // Computed in f64 and then rounded, like PyTorch.
        let power = |beta: f64| beta.powf(step as f64);
        let (first, second, beta2_kept) =
            ((1.0 - beta1) as f32, (1.0 - beta2) as f32, beta2 as f32);
        let size = (lr / (1.0 - power(beta1))) as f32;
        let correction = (1.0 - power(beta2)).sqrt() as f32;
        let (shrink, eps) = ((1.0 - lr * weight_decay) as f32, eps as f32);
        slices::read(self.gradient, |gradient| {
            let mut moments = self.moments.borrow_mut();
            let (m, v) = &mut *moments;
            let parameter = &mut parameter[start..end];
            let cost = COST * parameter.len();
            let parts = parameter.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK));
            let parts = parts.zip(m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK)));
            parallel::for_each(cost, parts, |((parameter, gradient), (m, v))| {
                simd::dispatch(
                    #[inline(always)]
                    || {
                        let each = parameter.iter_mut().zip(gradient);
                        let each = each.zip(m.iter_mut()).zip(v.iter_mut());
                        for (((p, &g), m), v) in each {
                            *m += first * (g - *m);
                            *v = beta2_kept * *v + second * g * g;
                            let scale = v.sqrt() / correction + eps;
                            *p = shrink * *p - size * (*m / scale);
                        }
                    },
                );
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::tests::assert_threads_do_not_show;
    use crate::testing::tensors;

    const STEP: AdamStep =
        AdamStep { step: 1, lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.5 };

    #[test]
    fn first_step_moves_by_the_learning_rate_after_decay() -> Result<()> {
        let [values, gradient] = tensors(&[&[3, 7], &[3, 7]])?;
        let var = Var::from_tensor(&values)?;
        adam_step(&var, &gradient, &mut [vec![0.0; 21], vec![0.0; 21]], &STEP)?;
        let want = ((&values * 0.95)? - (gradient.sign()? * 0.1)?)?;
        assert!((var.as_tensor() - want)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let [values, gradient] = tensors(&[&[700, 701], &[700, 701]])?;
        assert_threads_do_not_show(|| {
            let var = Var::from_tensor(&values).expect("a variable");
            let mut moments = [(); 2].map(|()| vec![0.1; values.elem_count()]);
            adam_step(&var, &gradient, &mut moments, &STEP).expect("a step");
            (var.to_vec2::<f32>().expect("a matrix"), moments)
        });
        Ok(())
    }

    #[test]
    fn mismatched_inputs_are_named() -> Result<()> {
        let [values, gradient] = tensors(&[&[3], &[4]])?;
        let var = Var::from_tensor(&values)?;
        let error = adam_step(&var, &gradient, &mut [vec![0.0; 3], vec![0.0; 3]], &STEP);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("a gradient of shape [3] and moments"), "{error}");
        Ok(())
    }
}
