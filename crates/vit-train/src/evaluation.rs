//! Evaluation on labelled samples.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Result as TensorResult, Tensor};
use rayon::prelude::*;
use tracing::{Span, trace_span};
use vit_ops::Mode;

use crate::loss::{predictions, scalar};
use crate::threads::thread_pool;
use crate::{Batch, CrossEntropy, Error, Loss, Model, Scores};

/// Batch size of an evaluation on one thread. For the presets, every operation's tensors then fit a 1 MB L2 cache. It
/// sets the order of summation, so it is the same everywhere; only a trainer on a GPU uses larger batches.
pub const EVALUATION_BATCH: usize = 50;

/// Whether to interrupt the evaluation.
pub(crate) type IsOver<'a> = &'a (dyn Fn() -> bool + Sync);

/// Evaluates a classifier on the samples `0..len` that `batch` returns, in order, on this many threads.
///
/// # Errors
/// If the model or a batch fails, or the threads cannot be started.
pub fn evaluate(
    model: &impl Model,
    len: usize,
    threads: usize,
    batch: impl Fn(&[u32]) -> TensorResult<Batch> + Sync,
) -> Result<Evaluation, Error> {
    let evaluate = |indices: &[u32]| {
        let Batch { inputs, targets } = batch(indices)?;
        let outputs = model.forward(&inputs, Mode::Eval)?; // (batch, classes)
        let loss = CrossEntropy::default().evaluation_sum(&outputs, &targets)?;
        let labels: Vec<u32> = targets[0].to_vec1()?;
        Ok(Evaluation {
            loss_sum: scalar(&loss)?,
            predictions: predictions(&outputs)?,
            ranks: ranks(&outputs, &labels)?,
            labels,
        })
    };
    let all = 0..len.div_ceil(EVALUATION_BATCH);
    let parts = thread_pool(threads)?.install(|| in_parallel(len, all, &evaluate))?;
    let mut whole = Evaluation::default();
    parts.into_iter().for_each(|part| whole.extend(part));
    Ok(whole)
}

/// Evaluates these batches of [`EVALUATION_BATCH`] samples out of `0..len` on the current thread pool; results are in
/// order.
pub(crate) fn in_parallel<T: Send>(
    len: usize,
    parts: Range<usize>,
    batch: &(impl Fn(&[u32]) -> TensorResult<T> + Sync + ?Sized),
) -> TensorResult<Vec<T>> {
    let of_evaluation = Span::current();
    let parts = parts.into_par_iter().map(|part| {
        let first = part * EVALUATION_BATCH;
        let indices = first as u32..len.min(first + EVALUATION_BATCH) as u32;
        let _part = trace_span!(parent: &of_evaluation, "part", first).entered();
        vit_ops::share_pool(|| batch(&indices.collect::<Vec<u32>>()))
    });
    parts.collect()
}

/// Scores a model's outputs on one batch.
pub(crate) fn score(
    (model, loss): (&dyn Model, &dyn Loss),
    batch: Batch,
    keeps_outputs: bool,
) -> TensorResult<Scores> {
    let Batch { inputs, targets } = batch;
    let outputs = model.forward(&inputs, Mode::Eval)?; // (batch, ...)
    Ok(Scores {
        loss_sum: scalar(&loss.evaluation_sum(&outputs, &targets)?)?,
        correct: loss.correct(&outputs, &targets)?,
        samples: inputs.dim(0)?,
        outputs: if keeps_outputs { vec![(outputs.detach(), targets)] } else { Vec::new() },
    })
}

/// Merges all parts; `None` if one is missing.
pub(crate) fn total(parts: Vec<Option<Scores>>) -> Option<Scores> {
    let mut whole = Scores::default();
    for part in parts {
        let Scores { loss_sum, correct, samples, outputs } = part?;
        whole.loss_sum += loss_sum;
        whole.correct += correct;
        whole.samples += samples;
        whole.outputs.extend(outputs);
    }
    Some(whole)
}

/// `outputs` (batch, classes) -> the rank of each row's label, from 0.
fn ranks(outputs: &Tensor, labels: &[u32]) -> TensorResult<Vec<u32>> {
    let rows = outputs.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let rank = |(row, &label): (&Vec<f32>, &u32)| {
        let own = row[label as usize];
        let is_before =
            |(class, &output): (u32, &f32)| output.total_cmp(&own).then(label.cmp(&class)).is_gt();
        (0..).zip(row).filter(|&at| is_before(at)).count() as u32
    };
    Ok(rows.iter().zip(labels).map(rank).collect())
}

/// Predictions and labels, in the order of the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// The class with the largest output; ties go to the first.
    pub predictions: Vec<u32>,
    /// The true class.
    pub labels: Vec<u32>,
    /// Rank of the true class, from 0: the number of classes with a larger output, or an equal one and a smaller index.
    pub ranks: Vec<u32>,
}

/// A confusion matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// `counts[label][prediction]`, sparse: with many classes most pairs never occur.
    pub counts: Vec<BTreeMap<usize, usize>>,
}

impl Evaluation {
    /// Appends the results of the following samples.
    fn extend(&mut self, next: Self) {
        self.loss_sum += next.loss_sum;
        self.predictions.extend(next.predictions);
        self.labels.extend(next.labels);
        self.ranks.extend(next.ranks);
    }

    /// Number of samples.
    #[must_use]
    pub fn total(&self) -> usize {
        self.labels.len()
    }

    /// Number of correctly classified samples.
    #[must_use]
    pub fn correct(&self) -> usize {
        self.labels.iter().zip(&self.predictions).filter(|(label, guess)| label == guess).count()
    }

    /// Share of correctly classified samples; NaN without samples.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct() as f64 / self.total() as f64
    }

    /// Top-k accuracy: share of samples whose class is among the `k` largest outputs; NaN without samples.
    #[must_use]
    pub fn top(&self, k: u32) -> f64 {
        self.ranks.iter().filter(|&&rank| rank < k).count() as f64 / self.total() as f64
    }

    /// Mean loss of a sample; NaN without samples.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.total() as f64
    }

    /// The confusion matrix over `classes` classes.
    ///
    /// # Panics
    /// If a label or prediction is not below `classes`.
    #[must_use]
    pub fn confusion(&self, classes: usize) -> Confusion {
        let mut counts = vec![BTreeMap::new(); classes];
        for (&label, &prediction) in self.labels.iter().zip(&self.predictions) {
            assert!((prediction as usize) < classes, "expected a class below {classes}");
            *counts[label as usize].entry(prediction as usize).or_insert(0) += 1;
        }
        Confusion { counts }
    }
}

impl Confusion {
    /// Number of samples of `label` classified as `prediction`.
    #[must_use]
    pub fn count(&self, label: usize, prediction: usize) -> usize {
        self.counts[label].get(&prediction).copied().unwrap_or_default()
    }

    /// Number of predictions of each class.
    #[must_use]
    pub fn predicted(&self) -> Vec<usize> {
        let mut predicted = vec![0; self.counts.len()];
        for (&prediction, count) in self.counts.iter().flatten() {
            predicted[prediction] += count;
        }
        predicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rank_counts_the_classes_before_the_label() {
        let outputs = Tensor::new(&[[0.1_f32, 0.5, 0.5], [3.0, 2.0, 1.0]], &Device::Cpu);
        let outputs = outputs.expect("a small tensor");
        // Ties go to the first, as in a prediction.
        assert_eq!(ranks(&outputs, &[2, 2]).expect("floats"), [1, 2]);
        assert_eq!(ranks(&outputs, &[1, 0]).expect("floats"), [0, 0]);
    }

    #[test]
    fn accuracy_and_confusion_count_the_same_samples() {
        let evaluation = Evaluation {
            loss_sum: 6.0,
            predictions: vec![0, 1, 1, 2],
            labels: vec![0, 1, 2, 2],
            ranks: vec![0, 0, 1, 0],
        };
        assert_eq!(evaluation.accuracy(), 0.75);
        assert_eq!((evaluation.top(1), evaluation.top(2)), (0.75, 1.0));
        assert_eq!(evaluation.loss(), 1.5);
        let confusion = evaluation.confusion(3);
        let rows: Vec<[usize; 3]> =
            (0..3).map(|label| [0, 1, 2].map(|taken| confusion.count(label, taken))).collect();
        assert_eq!(rows, [[1, 0, 0], [0, 1, 0], [0, 1, 1]]);
        assert_eq!(confusion.predicted(), [1, 2, 1]);
        // A dense matrix would take 34 GB.
        assert_eq!(evaluation.confusion(1 << 16).count(2, 1), 1);
    }
}
