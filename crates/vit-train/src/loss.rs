//! Losses.

use candle_core::{DType, Result, Tensor, bail};
use vit_ops::{cross_entropy_sum, smoothed_cross_entropy_sum};

use crate::argmax::argmax;

/// A loss, summed over samples, so that the losses of shards add up to the batch's. The trainer divides by the number
/// of samples.
///
/// ```
/// use candle_core::{Device, Result, Tensor};
/// use vit_train::Loss;
///
/// /// Half the squared distance to the first target.
/// struct SquaredError;
///
/// impl Loss for SquaredError {
///     fn sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
///         (outputs - &targets[0])?.sqr()?.sum_all()? * 0.5
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let [outputs, targets] = [[[1.0_f32], [2.0]], [[0.0], [4.0]]].map(|xs| Tensor::new(&xs, &Device::Cpu));
/// let loss = SquaredError.sum(&outputs?, &[targets?])?;
/// assert_eq!(loss.to_scalar::<f32>()?, 2.5);
/// # Ok(())
/// # }
/// ```
pub trait Loss: Send + Sync {
    /// The loss in training, summed over the samples.
    ///
    /// # Shapes
    /// `outputs` (batch, ...), `targets` each (batch, ...), as in [`Batch`](crate::Batch) -> ()
    ///
    /// # Errors
    /// If outputs and targets do not match.
    fn sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor>;

    /// The evaluation loss, summed over the samples; by default the training loss.
    ///
    /// # Errors
    /// Same as [`sum`](Self::sum).
    fn evaluation_sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
        self.sum(outputs, targets)
    }

    /// The labels for accuracy, (batch) of `u32`; by default the first target if it has this form.
    fn labels<'a>(&self, targets: &'a [Tensor]) -> Option<&'a Tensor> {
        targets.first().filter(|target| target.rank() == 1 && target.dtype() == DType::U32)
    }

    /// Number of correctly classified samples: by default, the largest output must be the label's, ties going to
    /// the first class; 0 without [`labels`](Self::labels).
    ///
    /// # Errors
    /// If outputs and targets do not match.
    fn correct(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<usize> {
        self.labels(targets).map_or(Ok(0), |labels| correct(outputs, labels.to_vec1::<u32>()?))
    }
}

impl<L: Loss + ?Sized> Loss for Box<L> {
    fn sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
        (**self).sum(outputs, targets)
    }

    fn evaluation_sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
        (**self).evaluation_sum(outputs, targets)
    }

    fn labels<'a>(&self, targets: &'a [Tensor]) -> Option<&'a Tensor> {
        (**self).labels(targets)
    }

    fn correct(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<usize> {
        (**self).correct(outputs, targets)
    }
}

/// Cross entropy with `u32` labels, optionally smoothed in training.
///
/// PyTorch equivalent: `CrossEntropyLoss(label_smoothing=ε, reduction="sum")`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    smoothing: f64,
}

impl CrossEntropy {
    /// With this share of each label spread over all classes in training, in `[0, 1)`; 0 is off.
    #[must_use]
    pub const fn smoothed(smoothing: f64) -> Self {
        Self { smoothing }
    }
}

impl Loss for CrossEntropy {
    fn sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
        smoothed_cross_entropy_sum(outputs, one(targets)?, self.smoothing)
    }

    fn evaluation_sum(&self, outputs: &Tensor, targets: &[Tensor]) -> Result<Tensor> {
        cross_entropy_sum(outputs, one(targets)?)
    }
}

/// The only target.
pub(crate) fn one(targets: &[Tensor]) -> Result<&Tensor> {
    match targets {
        [target] => Ok(target),
        _ => bail!("cross entropy: expected one target, the labels, got {}", targets.len()),
    }
}

/// Number of samples whose largest output is their label's.
pub(crate) fn correct(outputs: &Tensor, labels: impl IntoIterator<Item = u32>) -> Result<usize> {
    let predictions = predictions(outputs)?;
    Ok(predictions.into_iter().zip(labels).filter(|(guess, label)| guess == label).count())
}

/// The class with the largest output of each sample.
pub(crate) fn predictions(outputs: &Tensor) -> Result<Vec<u32>> {
    let rows = outputs.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    Ok(rows.iter().map(|row| argmax(row)).collect())
}

/// A loss as a number.
pub(crate) fn scalar(loss: &Tensor) -> Result<f64> {
    loss.to_dtype(DType::F64)?.to_scalar()
}
