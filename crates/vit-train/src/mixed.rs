//! Loss and accuracy of mixed samples.

use candle_core::{Result, Tensor, bail};
use vit_ops::{cross_entropy_sum, soft_cross_entropy_sum};

use crate::Loss;
use crate::loss::{correct, one};

/// Cross entropy with two weighted labels a sample (mixup, Zhang et al., arXiv 1710.09412), like timm's `elem` mode.
///
/// The targets are labels (batch) of `u32`, second labels (batch) of `u32`, and weights of the second labels (batch) of
/// `f32` in `[0, 1]`. With weight `s`, a sample's loss is `(1 - s) l[a] + s l[b]`. A sample counts as correct if its
/// largest output belongs to the label with the larger weight; ties go to the first label. In evaluation the label is
/// the only target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MixedCrossEntropy {
    smoothing: f64,
}

impl MixedCrossEntropy {
    /// With this share of each label spread over all classes in training, in `[0, 1)`; 0 is off.
    #[must_use]
    pub const fn smoothed(smoothing: f64) -> Self {
        Self { smoothing }
    }
}

impl Loss for MixedCrossEntropy {
    fn sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
        Pairs::of(targets)?.loss_sum(outputs, self.smoothing)
    }

    fn evaluation_sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
        cross_entropy_sum(outputs, one(targets)?)
    }

    /// Only in evaluation: in training a sample has two labels.
    fn labels<'a>(&self, targets: &'a [Tensor]) -> Option<&'a Tensor> {
        one(targets).ok()
    }

    fn correct(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<usize> {
        match self.labels(targets) {
            Some(labels) => correct(outputs, labels.to_vec1::<u32>()?),
            None => correct(outputs, Pairs::of(targets)?.larger()),
        }
    }
}

/// Both labels of each sample, and the weight of the second.
struct Pairs(Vec<([u32; 2], f32)>);

impl Pairs {
    /// Reads the targets.
    ///
    /// # Errors
    /// If shapes do not match, or a weight is out of range.
    fn of(targets: &[Tensor]) -> Result<Self> {
        let [labels, others, shares] = targets else {
            bail!(
                "expected labels, second labels and weights of mixed samples, got {} targets",
                targets.len()
            );
        };
        let count = labels.dims1()?;
        if others.dims() != [count] || shares.dims() != [count] {
            let (others, shares) = (others.dims(), shares.dims());
            bail!("expected {count} second labels and weights, got {others:?} and {shares:?}");
        }
        let shares = shares.to_vec1::<f32>()?;
        if let Some(share) = shares.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            bail!("expected weights in [0, 1], got {share}");
        }
        let labels = labels.to_vec1()?.into_iter().zip(others.to_vec1()?);
        Ok(Self(labels.map(|(label, other)| [label, other]).zip(shares).collect()))
    }

    /// The label with the larger weight of each sample.
    fn larger(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|&([label, other], share)| if share > 0.5 { other } else { label })
    }

    /// The losses' sum over samples, with the share `smoothing` of each label spread over all classes.
    ///
    /// # Errors
    /// If a label is not a class, or an operation fails.
    fn loss_sum(&self, logits: &Tensor, smoothing: f64) -> Result<Tensor> {
        let (batch, classes) = logits.dims2()?;
        let smoothing = smoothing as f32;
        let mut targets = vec![smoothing / classes as f32; batch * classes];
        for (row, &(labels, share)) in targets.chunks_exact_mut(classes).zip(&self.0) {
            for (label, share) in labels.into_iter().zip([1.0 - share, share]) {
                let Some(target) = row.get_mut(label as usize) else {
                    bail!("expected labels below {classes}, got {label}");
                };
                *target += (1.0 - smoothing) * share;
            }
        }
        let targets = Tensor::from_vec(targets, (batch, classes), logits.device())?;
        soft_cross_entropy_sum(logits, &targets.to_dtype(logits.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use vit_ops::smoothed_cross_entropy_sum;

    fn mixed(first: &[u32], second: &[u32], shares: &[f32]) -> Result<[Tensor; 3]> {
        Ok([labels(first)?, labels(second)?, Tensor::new(shares, &Device::Cpu)?])
    }

    fn labels(labels: &[u32]) -> Result<Tensor> {
        Tensor::new(labels, &Device::Cpu)
    }

    #[test]
    fn the_loss_is_the_weighted_mean_over_both_labels() -> Result<()> {
        let logits = Tensor::new(&[[1.0_f64, -2.0, 0.5], [0.25, 3.0, -1.0]], &Device::Cpu)?;
        let (first, second, shares) = ([2, 1], [0, 1], [0.25, 0.75]);
        for smoothing in [0.0, 0.25] {
            let loss = |sample: usize, label: u32| {
                let logits = logits.narrow(0, sample, 1)?;
                smoothed_cross_entropy_sum(&logits, &labels(&[label])?, smoothing)?
                    .to_scalar::<f64>()
            };
            let mut want = 0.0;
            for sample in 0..2 {
                let share = f64::from(shares[sample]);
                want += (1.0 - share) * loss(sample, first[sample])?;
                want += share * loss(sample, second[sample])?;
            }
            let pairs = Pairs::of(&mixed(&first, &second, &shares)?)?;
            let got = pairs.loss_sum(&logits, smoothing)?.to_scalar::<f64>()?;
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        Ok(())
    }

    /// `F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.25)` of PyTorch 2.15 in float64, with the
    /// weights of both labels as targets.
    #[test]
    fn smoothed_loss_equals_pytorchs() -> Result<()> {
        let logits = Tensor::new(&[[1.0_f64, -2.0, 0.5], [0.25, 3.0, -1.0]], &Device::Cpu)?;
        let pairs = Pairs::of(&mixed(&[2, 1], &[0, 1], &[0.25, 0.75])?)?;
        let got = pairs.loss_sum(&logits, 0.25)?.to_scalar::<f64>()?;
        assert!((got - 1.7190497704130496).abs() < 1e-6, "{got}");
        Ok(())
    }

    #[test]
    fn accuracy_uses_the_label_with_the_larger_weight() -> Result<()> {
        let pairs = Pairs::of(&mixed(&[1, 2, 3], &[4, 5, 6], &[0.4, 0.6, 0.5])?)?;
        assert!(pairs.larger().eq([1, 5, 3]));
        Ok(())
    }

    #[test]
    fn mismatched_targets_are_named() -> Result<()> {
        let message = |error: Option<candle_core::Error>| error.expect("an error").to_string();
        let first = [1, 2];
        let error = message(Pairs::of(&mixed(&first, &[1], &[0.5, 0.5])?).err());
        assert!(error.contains("expected 2 second labels and weights, got [1] and [2]"), "{error}");
        let error = message(Pairs::of(&mixed(&first, &[1, 2], &[0.5, 1.5])?).err());
        assert!(error.contains("expected weights in [0, 1], got 1.5"), "{error}");
        let pairs = Pairs::of(&mixed(&first, &[1, 3], &[0.5, 0.5])?)?;
        let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        let error = message(pairs.loss_sum(&logits, 0.0).err());
        assert!(error.contains("expected labels below 3, got 3"), "{error}");
        Ok(())
    }
}
