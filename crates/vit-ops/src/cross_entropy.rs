//! Cross entropy between logits and labels.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use crate::slices;
use crate::softmax::softmax_rows;

/// `sum_n (log sum_c exp(x_nc) - x_n[label_n])`: a sum over the batch, so that the losses of shards add up.
///
/// PyTorch equivalent: `torch.nn.functional.cross_entropy(logits, labels, reduction="sum")`.
///
/// # Shapes
/// `logits` (batch, classes), `labels` (batch) of `u32` -> ()
///
/// # Errors
/// If the shapes do not match, or a label is out of range. On a GPU labels are not validated; an out-of-range label
/// gives a NaN loss.
pub fn cross_entropy_sum(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    smoothed_cross_entropy_sum(logits, labels, 0.0)
}

/// Cross entropy with label smoothing `ε = smoothing` (Szegedy et al., arXiv 1512.00567, section 7):
/// `sum_n (1 - ε) l_n[label_n] + ε / classes sum_c l_n[c]`, where `l_n[c] = log sum_k exp(x_nk) - x_nc`. With `ε = 0`
/// it is bit-identical to [`cross_entropy_sum`].
///
/// PyTorch equivalent: `torch.nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=ε)`.
///
/// # Shapes
/// `logits` (batch, classes), `labels` (batch) of `u32` -> ()
///
/// # Errors
/// Like [`cross_entropy_sum`], or if `smoothing` is not in `[0, 1]`.
pub fn smoothed_cross_entropy_sum(
    logits: &Tensor,
    labels: &Tensor,
    smoothing: f64,
) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&smoothing) {
        bail!("cross entropy: expected a smoothing in [0, 1], got {smoothing}");
    }
    let (batch, classes) = logits.dims2()?;
    if labels.dims() != [batch] || labels.dtype() != DType::U32 {
        bail!(
            "cross entropy: expected {batch} labels of dtype u32, got {:?} of {:?}",
            labels.dims(),
            labels.dtype()
        );
    }
    if batch == 0 {
        return logits.sum_all();
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(logits) {
        return crate::cuda::smoothed_cross_entropy_sum(logits, labels, smoothing);
    }
    if !slices::fused(logits) {
        return composed::smoothed_cross_entropy_sum(logits, labels, smoothing);
    }
    let labels = labels.to_vec1::<u32>()?;
    if let Some(sample) = labels.iter().position(|&label| label as usize >= classes) {
        bail!(
            "cross entropy: expected labels below {classes}, got {} for sample {sample}",
            labels[sample]
        );
    }
    logits.contiguous()?.apply_op1(CrossEntropy { labels, smoothing: smoothing as f32 })
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use crate::precision::widened;
    use candle_core::D;

    /// [`cross_entropy_sum`](crate::cross_entropy_sum()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn cross_entropy_sum(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        smoothed_cross_entropy_sum(logits, labels, 0.0)
    }

    /// [`smoothed_cross_entropy_sum`](crate::smoothed_cross_entropy_sum()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn smoothed_cross_entropy_sum(
        logits: &Tensor,
        labels: &Tensor,
        smoothing: f64,
    ) -> Result<Tensor> {
        let (dtype, logits) = (logits.dtype(), widened(logits)?);
        // Subtracting the maximum changes neither the loss nor the gradient.
        let max = logits.detach().max_keepdim(D::Minus1)?;
        let shifted = logits.broadcast_sub(&max)?;
        let log_sum = shifted.exp()?.sum(D::Minus1)?.log()?;
        let of_label = shifted.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
        if smoothing == 0.0 {
            return (log_sum - of_label)?.sum_all()?.to_dtype(dtype);
        }
        let target = ((of_label * (1.0 - smoothing))? + (shifted.mean(D::Minus1)? * smoothing)?)?;
        (log_sum - target)?.sum_all()?.to_dtype(dtype)
    }
}

struct CrossEntropy {
    labels: Vec<u32>,
    /// `ε`
    smoothing: f32,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_batch, classes) = layout.shape().dims2()?;
        let logits = slices::of_storage(logits, layout)?;
        let rows = logits.chunks_exact(classes).zip(&self.labels);
        let loss = rows.map(|(row, &label)| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = row.iter().map(|x| (x - max).exp()).sum();
            let of_label = row[label as usize] - max;
            if self.smoothing == 0.0 {
                return sum.ln() - of_label;
            }
            let mean = row.iter().map(|x| x - max).sum::<f32>() / classes as f32;
            sum.ln() - ((1.0 - self.smoothing) * of_label + self.smoothing * mean)
        });
        slices::output(vec![loss.sum()], ())
    }

    /// `dx = dy (softmax(x) - (1 - ε) onehot(label) - ε / classes)`.
    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_batch, classes) = logits.dims2()?;
        let grad = slices::upstream(grad)?.to_scalar::<f32>()?;
        let spread = self.smoothing / classes as f32;
        let mut values = slices::read(logits, |logits| Ok(logits.to_vec()))?;
        softmax_rows(&mut values, classes);
        for (row, &label) in values.chunks_exact_mut(classes).zip(&self.labels) {
            row[label as usize] -= 1.0 - self.smoothing;
            row.iter_mut().for_each(|x| *x = (*x - spread) * grad);
        }
        slices::gradient(values, logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};
    use candle_core::Device;

    fn labels(batch: usize, classes: usize) -> Result<Tensor> {
        let labels: Vec<u32> = (0..batch).map(|n| (n * 7 % classes) as u32).collect();
        Tensor::from_vec(labels, batch, &Device::Cpu)
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (batch, classes) in [(1, 1), (1, 10), (5, 3), (64, 10), (3, 1000)] {
            let labels = labels(batch, classes)?;
            Case::new(&[&[batch, classes]])?.fused_equals_composed(
                |t| cross_entropy_sum(&t[0], &labels),
                |t| composed::cross_entropy_sum(&t[0], &labels),
            )?;
        }
        Ok(())
    }

    #[test]
    fn smoothed_fused_equals_composed() -> Result<()> {
        for (batch, classes) in [(1, 1), (5, 3), (64, 10), (3, 1000)] {
            let labels = labels(batch, classes)?;
            for smoothing in [0.1, 1.0] {
                Case::new(&[&[batch, classes]])?.fused_equals_composed(
                    |t| smoothed_cross_entropy_sum(&t[0], &labels, smoothing),
                    |t| composed::smoothed_cross_entropy_sum(&t[0], &labels, smoothing),
                )?;
            }
        }
        let labels = labels(4, 5)?;
        Case::new(&[&[4, 5]])?.gradients_match_differences(|t| {
            composed::smoothed_cross_entropy_sum(&t[0], &labels, 0.1)
        })
    }

    /// `F.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)` of PyTorch 2.15, in float64.
    #[test]
    fn smoothed_loss_equals_pytorchs() -> Result<()> {
        let logits = Tensor::new(&[[1.0_f64, -2.0, 0.5], [0.25, 3.0, -1.0]], &Device::Cpu)?;
        let labels = Tensor::new(&[2_u32, 1], &Device::Cpu)?;
        let want = 1.3752997704130494;
        let exact = smoothed_cross_entropy_sum(&logits, &labels, 0.1)?.to_scalar::<f64>()?;
        assert!((exact - want).abs() < 1e-14, "{exact}");
        let logits = logits.to_dtype(DType::F32)?;
        let fused = smoothed_cross_entropy_sum(&logits, &labels, 0.1)?.to_scalar::<f32>()?;
        assert!((f64::from(fused) - want).abs() < 1e-6, "{fused}");
        Ok(())
    }

    #[test]
    fn smoothing_out_of_range_is_named() -> Result<()> {
        let [logits] = tensors(&[&[2, 3]])?;
        let labels = Tensor::new(&[1_u32, 2], &Device::Cpu)?;
        let error = smoothed_cross_entropy_sum(&logits, &labels, 1.5).unwrap_err().to_string();
        assert!(error.contains("expected a smoothing in [0, 1], got 1.5"), "{error}");
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let labels = labels(4, 5)?;
        Case::new(&[&[4, 5]])?
            .gradients_match_differences(|t| composed::cross_entropy_sum(&t[0], &labels))
    }

    #[test]
    fn logits_far_apart_do_not_overflow() -> Result<()> {
        let logits = Tensor::new(&[[1e4_f32, -1e4], [-1e4, 1e4]], &Device::Cpu)?;
        let labels = Tensor::new(&[0_u32, 0], &Device::Cpu)?;
        for loss in
            [cross_entropy_sum(&logits, &labels)?, composed::cross_entropy_sum(&logits, &labels)?]
        {
            assert_eq!(loss.to_scalar::<f32>()?, 2e4);
        }
        Ok(())
    }

    #[test]
    fn empty_batch_has_zero_loss() -> Result<()> {
        let [logits] = tensors(&[&[0, 3]])?;
        let labels = Tensor::new(&[] as &[u32], &Device::Cpu)?;
        assert_eq!(cross_entropy_sum(&logits, &labels)?.to_scalar::<f32>()?, 0.0);
        Ok(())
    }

    #[test]
    fn out_of_range_label_is_named() -> Result<()> {
        let [logits] = tensors(&[&[2, 3]])?;
        let labels = Tensor::new(&[1_u32, 3], &Device::Cpu)?;
        let error = cross_entropy_sum(&logits, &labels).unwrap_err().to_string();
        assert!(error.contains("expected labels below 3, got 3 for sample 1"), "{error}");
        Ok(())
    }
}
