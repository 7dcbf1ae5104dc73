//! Cross entropy between logits and the labels of their samples.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use crate::slices;
use crate::softmax::softmax_in_place;

/// `sum_n (log sum_c exp(x_nc) - x_n[label_n])`: the sum over the batch, so that the losses of shards add up.
///
/// PyTorch equivalent: `torch.nn.functional.cross_entropy(logits, labels, reduction="sum")`.
///
/// # Shapes
/// `logits` (batch, classes), `labels` (batch) of `u32` -> ()
///
/// # Errors
/// If the shapes do not fit, or a label is not below `classes`.
pub fn cross_entropy_sum(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
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
    if !slices::fused(logits) {
        return composed::cross_entropy_sum(logits, labels);
    }
    let labels = labels.to_vec1::<u32>()?;
    if let Some(sample) = labels.iter().position(|&label| label as usize >= classes) {
        bail!(
            "cross entropy: expected labels below {classes}, got {} for sample {sample}",
            labels[sample]
        );
    }
    logits.contiguous()?.apply_op1(CrossEntropy { labels })
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use crate::precision::widened;
    use candle_core::D;

    /// [`cross_entropy_sum`](crate::cross_entropy_sum()) out of candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn cross_entropy_sum(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let (dtype, logits) = (logits.dtype(), widened(logits)?);
        // The loss does not depend on what is taken off, so neither does the gradient.
        let max = logits.detach().max_keepdim(D::Minus1)?;
        let shifted = logits.broadcast_sub(&max)?;
        let log_sum = shifted.exp()?.sum(D::Minus1)?.log()?;
        let of_label = shifted.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
        (log_sum - of_label)?.sum_all()?.to_dtype(dtype)
    }
}

struct CrossEntropy {
    labels: Vec<u32>,
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
            sum.ln() - (row[label as usize] - max)
        });
        slices::output(vec![loss.sum()], ())
    }

    /// `dx = dy (softmax(x) - onehot(label))`.
    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_batch, classes) = logits.dims2()?;
        let grad = grad.to_scalar::<f32>()?;
        let mut values = slices::read(logits, |logits| Ok(logits.to_vec()))?;
        for (row, &label) in values.chunks_exact_mut(classes).zip(&self.labels) {
            softmax_in_place(row);
            row[label as usize] -= 1.0;
            row.iter_mut().for_each(|x| *x *= grad);
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
    fn gradients_are_those_of_finite_differences() -> Result<()> {
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
    fn no_samples_have_no_loss() -> Result<()> {
        let [logits] = tensors(&[&[0, 3]])?;
        let labels = Tensor::new(&[] as &[u32], &Device::Cpu)?;
        assert_eq!(cross_entropy_sum(&logits, &labels)?.to_scalar::<f32>()?, 0.0);
        Ok(())
    }

    #[test]
    fn a_label_outside_the_classes_is_named() -> Result<()> {
        let [logits] = tensors(&[&[2, 3]])?;
        let labels = Tensor::new(&[1_u32, 3], &Device::Cpu)?;
        let error = cross_entropy_sum(&logits, &labels).unwrap_err().to_string();
        assert!(error.contains("expected labels below 3, got 3 for sample 1"), "{error}");
        Ok(())
    }
}
