//! Cross entropy between logits and class probabilities.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::slices;
use crate::softmax::softmax_rows;

/// `sum_n sum_c t_nc (log sum_k exp(x_nk) - x_nc)`: a sum over the batch, so that the losses of shards add up. The
/// targets get no gradient.
///
/// PyTorch equivalent: `torch.nn.functional.cross_entropy(logits, targets, reduction="sum")` with probabilities as
/// targets.
///
/// # Shapes
/// `logits` and `targets` (batch, classes), of one dtype -> ()
///
/// # Errors
/// If shapes or dtypes differ.
pub fn soft_cross_entropy_sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    if targets.dims() != [batch, classes] || targets.dtype() != logits.dtype() {
        bail!(
            "soft cross entropy: expected targets of shape [{batch}, {classes}] and dtype {:?}, got {:?} of {:?}",
            logits.dtype(),
            targets.dims(),
            targets.dtype()
        );
    }
    if batch == 0 {
        return logits.sum_all();
    }
    if !slices::fused(logits) {
        return composed::soft_cross_entropy_sum(logits, targets);
    }
    let targets = slices::read(&targets.contiguous()?, |targets| Ok(targets.to_vec()))?;
    logits.contiguous()?.apply_op1(SoftCrossEntropy { targets })
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use crate::precision::widened;
    use candle_core::D;

    /// [`soft_cross_entropy_sum`](crate::soft_cross_entropy_sum()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn soft_cross_entropy_sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (dtype, logits) = (logits.dtype(), widened(logits)?);
        let targets = targets.detach().to_dtype(logits.dtype())?;
        // Subtracting the maximum changes neither the loss nor the gradient.
        let max = logits.detach().max_keepdim(D::Minus1)?;
        let shifted = logits.broadcast_sub(&max)?;
        let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
        (log_sum.broadcast_sub(&shifted)? * targets)?.sum_all()?.to_dtype(dtype)
    }
}

struct SoftCrossEntropy {
    /// (batch, classes)
    targets: Vec<f32>,
}

impl CustomOp1 for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "soft-cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_batch, classes) = layout.shape().dims2()?;
        let logits = slices::of_storage(logits, layout)?;
        let rows = logits.chunks_exact(classes).zip(self.targets.chunks_exact(classes));
        let loss = rows.map(|(row, targets)| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f32>().ln();
            row.iter().zip(targets).map(|(x, target)| target * (log_sum - (x - max))).sum::<f32>()
        });
        slices::output(vec![loss.sum()], ())
    }

    /// `dx_n = dy (softmax(x_n) sum_c t_nc - t_n)`.
    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_batch, classes) = logits.dims2()?;
        let grad = slices::upstream(grad)?.to_scalar::<f32>()?;
        let mut values = slices::read(logits, |logits| Ok(logits.to_vec()))?;
        softmax_rows(&mut values, classes);
        let rows = values.chunks_exact_mut(classes).zip(self.targets.chunks_exact(classes));
        for (row, targets) in rows {
            let total: f32 = targets.iter().sum();
            row.iter_mut().zip(targets).for_each(|(x, target)| *x = (*x * total - target) * grad);
        }
        slices::gradient(values, logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};
    use candle_core::{DType, Device, Var};

    /// Rows that sum to 1, with one zero entry.
    fn targets(batch: usize, classes: usize) -> Result<Tensor> {
        let weights = (0..batch * classes).map(|at| ((at * 7 + at / classes) % 5) as f32);
        let mut weights: Vec<f32> = weights.collect();
        for row in weights.chunks_exact_mut(classes) {
            row[0] += 1.0;
            let total: f32 = row.iter().sum();
            row.iter_mut().for_each(|weight| *weight /= total);
        }
        Tensor::from_vec(weights, (batch, classes), &Device::Cpu)
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (batch, classes) in [(1, 1), (1, 10), (5, 3), (64, 10), (3, 1000)] {
            let targets = targets(batch, classes)?;
            Case::new(&[&[batch, classes]])?.fused_equals_composed(
                |t| soft_cross_entropy_sum(&t[0], &targets),
                |t| composed::soft_cross_entropy_sum(&t[0], &targets),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        // Rows that do not sum to 1 too.
        for scale in [1.0, 0.5] {
            let targets = (targets(4, 5)?.to_dtype(DType::F64)? * scale)?;
            Case::new(&[&[4, 5]])?.gradients_match_differences(|t| {
                composed::soft_cross_entropy_sum(&t[0], &targets)
            })?;
        }
        Ok(())
    }

    /// `F.cross_entropy(logits, targets, reduction="sum")` of PyTorch 2.15, in float64, and its gradient.
    #[test]
    fn loss_and_gradient_equal_pytorchs() -> Result<()> {
        let logits = Tensor::new(&[[1.0_f64, -2.0, 0.5], [0.25, 3.0, -1.0]], &Device::Cpu)?;
        let targets = Tensor::new(&[[0.25_f64, 0.0, 0.75], [0.5, 0.5, 0.0]], &Device::Cpu)?;
        let want = 2.333633103746383;
        let gradient = [
            [0.3537488961486258, 0.030058887569574023, -0.3838077837181998],
            [-0.4409302424074898, 0.4240064735078669, 0.01692376889962281],
        ];
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
            let logits = Var::from_tensor(&logits.to_dtype(dtype)?)?;
            let loss = soft_cross_entropy_sum(&logits, &targets.to_dtype(dtype)?)?;
            let got = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            assert!((got - want).abs() < tolerance, "{got}");
            let gradients = loss.backward()?;
            let got = gradients.get(&logits).expect("a gradient").to_dtype(DType::F64)?;
            let rows = got.to_vec2::<f64>()?;
            for (got, want) in rows.iter().flatten().zip(gradient.iter().flatten()) {
                assert!((got - want).abs() < tolerance, "{got} {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn logits_far_apart_do_not_overflow() -> Result<()> {
        let logits = Tensor::new(&[[1e4_f32, -1e4], [-1e4, 1e4]], &Device::Cpu)?;
        let targets = Tensor::new(&[[0.5_f32, 0.5], [1.0, 0.0]], &Device::Cpu)?;
        for loss in [
            soft_cross_entropy_sum(&logits, &targets)?,
            composed::soft_cross_entropy_sum(&logits, &targets)?,
        ] {
            assert_eq!(loss.to_scalar::<f32>()?, 3e4);
        }
        Ok(())
    }

    #[test]
    fn non_contiguous_and_empty_inputs_work() -> Result<()> {
        let [logits] = tensors(&[&[3, 5]])?;
        let of = |logits: &Tensor, targets: &Tensor| {
            soft_cross_entropy_sum(logits, targets)?.to_scalar::<f32>()
        };
        let (turned, of_turned) = (logits.t()?.contiguous()?.t()?, targets(5, 3)?.t()?);
        let want = of(&logits, &of_turned.contiguous()?)?;
        assert_eq!(of(&turned, &of_turned)?, want);
        let [none] = tensors(&[&[0, 3]])?;
        assert_eq!(of(&none, &none)?, 0.0);
        Ok(())
    }

    #[test]
    fn mismatched_targets_are_named() -> Result<()> {
        let [logits, targets] = tensors(&[&[2, 3], &[2, 4]])?;
        let error = soft_cross_entropy_sum(&logits, &targets).unwrap_err().to_string();
        assert!(error.contains("expected targets of shape [2, 3]"), "{error}");
        assert!(error.contains("got [2, 4]"), "{error}");
        Ok(())
    }
}
