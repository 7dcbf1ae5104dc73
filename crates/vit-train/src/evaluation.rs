//! How well a model does on samples whose labels are known.

use candle_core::{DType, Result as TensorResult, Tensor};
use rayon::prelude::*;
use tracing::{Span, trace_span};
use vit_ops::{Mode, cross_entropy_sum};

use crate::threads::thread_pool;
use crate::{Batch, Error, Forward};

/// Samples that are evaluated at once on one thread: of the presets, as many as keep every operation's tensors in a
/// second cache of 1 MB. What order sums have may depend on it, so whoever evaluates elsewhere takes as many. A trainer on a
/// GPU takes more at a time.
pub const EVALUATION_BATCH: usize = 50;

/// Whether an evaluation is to be broken off.
pub(crate) type IsOver<'a> = &'a (dyn Fn() -> bool + Sync);

/// Evaluates samples `0..len` of those that `batch` gives, in order, on so many threads.
///
/// # Errors
/// If the model or a batch fails, or the threads cannot be started.
pub fn evaluate(
    forward: &impl Forward,
    len: usize,
    threads: usize,
    batch: impl Fn(&[u32]) -> TensorResult<Batch> + Sync,
) -> Result<Evaluation, Error> {
    let whole = thread_pool(threads)?.install(|| evaluate_here(forward, len, &batch, &|| false))?;
    Ok(whole.expect("nothing breaks it off"))
}

/// The same on the current thread pool; none if it is broken off, which is asked before each part.
pub(crate) fn evaluate_here(
    forward: &impl Forward,
    len: usize,
    batch: impl Fn(&[u32]) -> TensorResult<Batch> + Sync,
    is_over: IsOver<'_>,
) -> TensorResult<Option<Evaluation>> {
    let indices: Vec<u32> = (0..len as u32).collect();
    let batches = indices.par_chunks(EVALUATION_BATCH);
    let of_evaluation = Span::current();
    let parts: Vec<Option<Evaluation>> = batches
        .map(|indices| {
            if is_over() {
                return Ok(None);
            }
            let _part = trace_span!(parent: &of_evaluation, "part", first = indices[0]).entered();
            evaluate_batch(forward, &batch(indices)?).map(Some)
        })
        .collect::<TensorResult<_>>()?;
    let mut whole = Evaluation::default();
    for part in parts {
        let Some(part) = part else { return Ok(None) };
        whole.extend(part);
    }
    Ok(Some(whole))
}

/// The same on a GPU, which one thread keeps busy with `at_once` samples at a time.
pub(crate) fn evaluate_on_gpu(
    forward: &impl Forward,
    len: usize,
    at_once: usize,
    batch: impl Fn(&[u32]) -> TensorResult<Batch>,
    is_over: IsOver<'_>,
) -> TensorResult<Option<Evaluation>> {
    let indices: Vec<u32> = (0..len as u32).collect();
    let mut whole = Evaluation::default();
    for indices in indices.chunks(at_once) {
        if is_over() {
            return Ok(None);
        }
        whole.extend(evaluate_batch(forward, &batch(indices)?)?);
    }
    Ok(Some(whole))
}

fn evaluate_batch(forward: &impl Forward, batch: &Batch) -> TensorResult<Evaluation> {
    let logits = forward(&batch.images, Mode::Eval)?; // (batch, classes)
    Ok(Evaluation {
        loss_sum: scalar(&cross_entropy_sum(&logits, &batch.labels)?)?,
        predictions: predictions(&logits)?,
        labels: batch.labels.to_vec1()?,
    })
}

/// Predictions beside labels, in the order of the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// The class with the largest output, the first of equals.
    pub predictions: Vec<u32>,
    /// The class that is right.
    pub labels: Vec<u32>,
}

/// How often each class was taken for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// `counts[label][prediction]`
    pub counts: Vec<Vec<usize>>,
}

impl Evaluation {
    /// Adds what comes after.
    fn extend(&mut self, next: Self) {
        self.loss_sum += next.loss_sum;
        self.predictions.extend(next.predictions);
        self.labels.extend(next.labels);
    }

    /// Number of samples.
    #[must_use]
    pub fn total(&self) -> usize {
        self.labels.len()
    }

    /// Number of samples classified right.
    #[must_use]
    pub fn correct(&self) -> usize {
        self.labels.iter().zip(&self.predictions).filter(|(label, guess)| label == guess).count()
    }

    /// Share of samples classified right; not a number without samples.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct() as f64 / self.total() as f64
    }

    /// Mean loss of a sample; not a number without samples.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.total() as f64
    }

    /// How often each of `classes` classes was taken for each.
    ///
    /// # Panics
    /// If a label or prediction is not below `classes`.
    #[must_use]
    pub fn confusion(&self, classes: usize) -> Confusion {
        let mut counts = vec![vec![0; classes]; classes];
        for (&label, &prediction) in self.labels.iter().zip(&self.predictions) {
            counts[label as usize][prediction as usize] += 1;
        }
        Confusion { counts }
    }
}

/// The class with the largest output for each sample.
pub(crate) fn predictions(logits: &Tensor) -> TensorResult<Vec<u32>> {
    let rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    Ok(rows.iter().map(|row| argmax(row)).collect())
}

/// A loss as a number.
pub(crate) fn scalar(loss: &Tensor) -> TensorResult<f64> {
    loss.to_dtype(DType::F64)?.to_scalar()
}

/// The first index of the largest value; values that are no numbers are never the largest.
#[must_use]
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] || (values[best].is_nan() && !value.is_nan()) {
            best = index;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_and_confusion_count_the_same_samples() {
        let evaluation =
            Evaluation { loss_sum: 6.0, predictions: vec![0, 1, 1, 2], labels: vec![0, 1, 2, 2] };
        assert_eq!(evaluation.accuracy(), 0.75);
        assert_eq!(evaluation.loss(), 1.5);
        let confusion = evaluation.confusion(3);
        assert_eq!(confusion.counts, [[1, 0, 0], [0, 1, 0], [0, 1, 1]]);
    }

    #[test]
    fn the_first_of_equals_is_taken_and_nan_never() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -1.0, -2.0]), 1);
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 0);
    }
}
