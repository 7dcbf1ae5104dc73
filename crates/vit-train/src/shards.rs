//! The pieces of a batch that are computed each on one thread. Their borders depend on the batch's size and the
//! number of shards, never on threads.

use std::ops::Range;

use candle_core::Tensor;
use tracing::trace_span;
use vit_ops::{Mode, smoothed_cross_entropy_sum};

use crate::evaluation::{predictions, scalar};
use crate::mixed::Pairs;
use crate::{Batch, Error, Forward, Parameters, gradients};

/// The shards of a batch, in order: as equal as can be, none empty.
pub(crate) fn shards(batch: usize, count: usize) -> Vec<Range<usize>> {
    let count = count.min(batch);
    (0..count).map(|index| index * batch / count..(index + 1) * batch / count).collect()
}

/// What a shard's forward and backward pass gives.
pub(crate) struct Shard {
    pub(crate) loss_sum: f64,
    pub(crate) correct: usize,
    /// In the order of the parameters.
    pub(crate) gradients: Vec<Tensor>,
}

/// Runs one shard forward and backward.
///
/// # Errors
/// If a tensor operation fails, or a parameter has no gradient.
pub(crate) fn train_shard(
    forward: &impl Forward,
    parameters: &Parameters,
    batch: &Batch,
    mode: Mode,
    label_smoothing: f64,
) -> Result<Shard, Error> {
    let logits = trace_span!("forward").in_scope(|| forward(&batch.images, mode))?; // (batch, classes)
    let pairs = batch.mixed.as_ref().map(|mixed| Pairs::of(&batch.labels, mixed)).transpose()?;
    let loss = match &pairs {
        None => smoothed_cross_entropy_sum(&logits, &batch.labels, label_smoothing)?,
        Some(pairs) => pairs.loss_sum(&logits, label_smoothing)?,
    };
    let gradients = trace_span!("backward").in_scope(|| loss.backward())?;
    let gradients = gradients::of_shard(gradients, parameters)?;
    let guesses = predictions(&logits)?;
    let labels = match &pairs {
        None => batch.labels.to_vec1::<u32>()?,
        Some(pairs) => pairs.larger().collect(),
    };
    let correct = guesses.iter().zip(&labels).filter(|(guess, label)| guess == label).count();
    Ok(Shard { loss_sum: scalar(&loss)?, correct, gradients })
}

#[cfg(test)]
mod tests {
    use super::shards;

    #[test]
    fn shards_cover_the_batch_in_order_and_differ_by_one_at_most() {
        for batch in 0..40 {
            for count in 1..10 {
                let shards = shards(batch, count);
                assert!(shards.iter().cloned().flatten().eq(0..batch));
                let sizes = || shards.iter().map(ExactSizeIterator::len);
                assert!(sizes().all(|size| size > 0));
                let spread = sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0);
                assert!(spread <= 1, "{shards:?}");
            }
        }
    }
}
