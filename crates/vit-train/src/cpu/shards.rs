//! Shards: the pieces of a batch whose gradients are computed apart. Their borders depend on the batch size and the number
//! of shards, never on threads. A thread takes one of them, or several in one pass.

use std::ops::Range;

use candle_core::{Result as TensorResult, Tensor};
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

/// The number of shards in a pass: the largest power of two, so that a pass is a node of the tree of sums, with which the
/// busiest thread has no more shards than with passes of one.
pub(super) fn shards_of_pass(shards: usize, threads: usize, most: usize) -> usize {
    let rounds =
        |of_pass: usize| (shards.div_ceil(of_pass).div_ceil(threads) * of_pass).min(shards);
    let powers = (0..usize::BITS).map(|exponent| 1_usize << exponent);
    let allowed = powers.take_while(|&of_pass| of_pass <= most.min(shards));
    allowed.filter(|&of_pass| rounds(of_pass) == rounds(1)).last().unwrap_or(1)
}

/// The result of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) loss_sum: f64,
    pub(super) correct: usize,
    /// Whether gradients of frozen parameters were computed, which wastes time.
    pub(super) computes_frozen: bool,
}

/// Runs shards of these sizes forward and backward: each one's result, and their gradients' sum along the tree, in the
/// order of the trained parameters.
///
/// # Errors
/// If a tensor operation fails, or a parameter has no gradient.
pub(super) fn train_shards(
    task: &Task,
    sizes: &[usize],
    batch: &Batch,
    mode: Mode,
) -> Result<(Vec<Done>, Vec<Tensor>), Error> {
    let Batch { inputs, targets } = batch;
    let outputs = trace_span!("forward").in_scope(|| task.model.forward(inputs, mode))?; // (batch, ...)
    let loss = task.loss.sum(&outputs, targets)?;
    let backward = || vit_ops::backward_in_pieces(&loss, sizes);
    let gradients = trace_span!("backward").in_scope(backward)?;
    let computes_frozen = task.frozen.iter().any(|(_, var)| gradients.get(var).is_some());
    let gradients = gradients::in_order(gradients, &task.trained)?;
    let done = |(outputs, targets): (&Tensor, &[Tensor]), loss: &Tensor| {
        let correct = task.loss.correct(outputs, targets)?;
        Ok::<_, Error>(Done { loss_sum: scalar(loss)?, correct, computes_frozen })
    };
    if sizes.len() == 1 {
        return Ok((vec![done((&outputs, targets), &loss)?], gradients));
    }
    let outputs = outputs.detach();
    let mut start = 0;
    let each = sizes.iter().map(|&size| {
        let of_shard = |all: &Tensor| all.narrow(0, start, size);
        let targets = targets.iter().map(of_shard).collect::<TensorResult<Vec<_>>>()?;
        let outputs = of_shard(&outputs)?;
        start += size;
        done((&outputs, &targets), &task.loss.sum(&outputs, &targets)?)
    });
    Ok((each.collect::<Result<_, _>>()?, gradients))
}

#[cfg(test)]
mod tests {
    use super::{shards, shards_of_pass};

    #[test]
    fn passes_keep_no_thread_longer_busy() {
        for (shards, threads, want) in
            [(16, 1, 16), (14, 1, 8), (16, 2, 8), (16, 3, 2), (16, 5, 4), (16, 6, 1), (7, 2, 4)]
        {
            assert_eq!(shards_of_pass(shards, threads, 64), want, "{shards} on {threads}");
        }
        assert_eq!((shards_of_pass(16, 1, 7), shards_of_pass(16, 1, 0)), (4, 1));
    }

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
