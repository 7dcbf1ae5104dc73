//! Shards: the pieces of a batch that one thread each takes. Their borders depend on the batch size and the number
//! of shards, never on threads.

use std::ops::Range;

use candle_core::Tensor;
use tracing::trace_span;
use vit_ops::Mode;

use crate::backend::Task;
use crate::loss::scalar;
use crate::{Batch, Error, gradients};

/// The shards of a batch, in order; sizes differ by at most one, and none is empty.
pub(super) fn shards(batch: usize, count: usize) -> Vec<Range<usize>> {
    let count = count.min(batch);
    (0..count).map(|index| index * batch / count..(index + 1) * batch / count).collect()
}

/// The result of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) loss_sum: f64,
    pub(super) correct: usize,
    /// Whether gradients of frozen parameters were computed, which wastes time.
    pub(super) computes_frozen: bool,
}

/// Runs one shard forward and backward: its result, and its gradients in the order of the trained parameters.
///
/// # Errors
/// If a tensor operation fails, or a parameter has no gradient.
pub(super) fn train_shard(
    task: &Task,
    batch: &Batch,
    mode: Mode,
) -> Result<(Done, Vec<Tensor>), Error> {
    let Batch { inputs, targets } = batch;
    let outputs = trace_span!("forward").in_scope(|| task.model.forward(inputs, mode))?; // (batch, ...)
    let loss = task.loss.sum(&outputs, targets)?;
    let gradients = trace_span!("backward").in_scope(|| vit_ops::backward(&loss))?;
    let computes_frozen = task.frozen.iter().any(|(_, var)| gradients.get(var).is_some());
    let gradients = gradients::in_order(gradients, &task.trained)?;
    let correct = task.loss.correct(&outputs, targets)?;
    Ok((Done { loss_sum: scalar(&loss)?, correct, computes_frozen }, gradients))
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
