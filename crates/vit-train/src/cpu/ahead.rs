//! Prefetching of batches: a thread that finds no shard of the current batch left prepares one of the next.
//!
//! The queue holds the shards of one batch. Shards of the current batch come first, so prefetching uses time in which
//! threads would wait for the last of them; it needs no thread of its own. A batch depends on epoch and indices alone,
//! so it does not matter which thread prepares it, or when.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::Result as TensorResult;
use tracing::{Span, trace_span};

use crate::threads::work_until;
use crate::{Batch, Data, Error};

/// The prefetched shards, and the time training has waited for batches.
#[derive(Default)]
pub(super) struct Ahead {
    next: Vec<Prepared>,
    waited: Duration,
}

/// Consecutive shards of a step, which one thread takes.
#[derive(Debug)]
pub(super) struct Piece {
    /// Their numbers within the step.
    pub(super) shards: Range<usize>,
    /// The number of samples in each.
    pub(super) sizes: Vec<usize>,
    /// The first sample within the step.
    pub(super) first: usize,
    /// Its samples' indices in the data.
    pub(super) indices: Vec<u32>,
}

/// A prefetched batch. An error counts only if the batch is used.
struct Prepared {
    epoch: u64,
    indices: Vec<u32>,
    batch: TensorResult<Batch>,
}

impl Ahead {
    /// Drops everything prefetched: the data may have changed.
    pub(super) fn clear(&mut self) {
        self.next.clear();
    }

    /// Time that threads had nothing to compute before a batch was ready, averaged over the threads.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Computes the shards `now`, started in order, and prefetches the shards `next`.
    ///
    /// # Errors
    /// The first shard's error.
    pub(super) fn shards<T: Send>(
        &mut self,
        (data, epoch): (&dyn Data, u64),
        now: Vec<Piece>,
        next: Vec<Piece>,
        compute: impl Fn(&Piece, &Batch) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let of_step = Span::current();
        let mut ready = std::mem::take(&mut self.next).into_iter();
        let mut computed: Vec<Option<Result<T, Error>>> = now.iter().map(|_| None).collect();
        let mut prepared: Vec<Option<Prepared>> = next.iter().map(|_| None).collect();
        let (left, all_computed) = (AtomicUsize::new(now.len()), Mutex::new(None));
        let late = Mutex::new(Duration::ZERO);
        rayon::scope_fifo(|scope| {
            let (of_step, compute, left, all_computed, late) =
                (&of_step, &compute, &left, &all_computed, &late);
            for (piece, computed) in now.into_iter().zip(&mut computed) {
                let is_it =
                    |ready: &Prepared| ready.epoch == epoch && ready.indices == piece.indices;
                let ready = ready.next().filter(is_it);
                scope.spawn_fifo(move |_| {
                    let shards = trace_span!(parent: of_step, "shards", first = piece.first);
                    let _shards = shards.entered();
                    let batch = ready.map_or_else(
                        || {
                            let since = Instant::now();
                            let batch = trace_span!("batch")
                                .in_scope(|| data.train_batch(epoch, &piece.indices));
                            *late.lock().expect("no thread panics with it") += since.elapsed();
                            batch
                        },
                        |ready| ready.batch,
                    );
                    let result =
                        batch.map_err(Error::from).and_then(|batch| compute(&piece, &batch));
                    *computed = Some(result);
                    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        *all_computed.lock().expect("no thread panics with it") =
                            Some(Instant::now());
                    }
                });
            }
            for (Piece { indices, .. }, prepared) in next.into_iter().zip(&mut prepared) {
                scope.spawn_fifo(move |_| {
                    let _batch = trace_span!(parent: of_step, "batch").entered();
                    let batch = data.train_batch(epoch, &indices);
                    *prepared = Some(Prepared { epoch, indices, batch });
                });
            }
            // The scope would let this thread sleep.
            work_until(|| left.load(Ordering::Relaxed) == 0);
        });
        let threads = rayon::current_num_threads().min(computed.len()).max(1) as u32;
        let late = late.into_inner().expect("no thread panics with it") / threads;
        let all_computed = all_computed.into_inner().expect("no thread panics with it");
        let behind = all_computed.map_or(Duration::ZERO, |at: Instant| at.elapsed());
        self.waited += late + behind;
        self.next = prepared.into_iter().flatten().collect();
        computed.into_iter().map(|result| result.expect("each shard was computed")).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, bail};

    use super::*;
    use crate::cpu::shards::shards;

    /// Indices as inputs; records which were requested. One of them may be broken.
    #[derive(Default)]
    struct Indices {
        asked: Mutex<Vec<u32>>,
        broken: Option<u32>,
    }

    impl Data for Indices {
        fn order(&self, _epoch: u64) -> Vec<u32> {
            Vec::new()
        }

        fn train_batch(&self, _epoch: u64, indices: &[u32]) -> TensorResult<Batch> {
            self.asked.lock().expect("no thread panics with it").extend(indices);
            if let Some(broken) = self.broken.filter(|broken| indices.contains(broken)) {
                bail!("{broken} is broken");
            }
            let indices = Tensor::new(indices, &Device::Cpu)?;
            Ok(Batch::new(indices.clone(), indices))
        }

        fn test_len(&self) -> usize {
            0
        }

        fn test_batch(&self, _indices: &[u32]) -> TensorResult<Batch> {
            bail!("there is none")
        }
    }

    /// The samples that each batch's shards received, on three threads.
    fn run(data: &Indices, batches: &[(&[u32], &[u32])]) -> Result<Vec<Vec<u32>>, Error> {
        let pool = crate::threads::thread_pool(3)?;
        pool.install(|| {
            let mut ahead = Ahead::default();
            let pieces = |samples: &[u32]| -> Vec<Piece> {
                let ranges = shards(samples.len(), 4).into_iter().enumerate();
                let piece = |(shard, range): (usize, Range<usize>)| Piece {
                    shards: shard..shard + 1,
                    sizes: vec![range.len()],
                    first: range.start,
                    indices: samples[range].to_vec(),
                };
                ranges.map(piece).collect()
            };
            let given = |&(now, next): &(&[u32], &[u32])| -> Result<Vec<u32>, Error> {
                let inputs = |_: &Piece, batch: &Batch| Ok(batch.inputs.to_vec1::<u32>()?);
                Ok(ahead.shards((data, 1), pieces(now), pieces(next), inputs)?.concat())
            };
            batches.iter().map(given).collect()
        })
    }

    #[test]
    fn each_batch_is_made_once_for_its_own_step() {
        let samples: Vec<u32> = (0..30).rev().collect();
        let (a, b, c) = (&samples[..12], &samples[12..23], &samples[23..]);
        let data = Indices::default();
        let given = run(&data, &[(a, b), (b, c), (c, &[])]).expect("sound samples");
        assert_eq!(given, [a, b, c]);
        let mut asked = data.asked.into_inner().expect("no thread panics with it");
        asked.sort_unstable();
        assert!(asked.into_iter().eq(0..30));
    }

    #[test]
    fn prefetched_samples_of_another_batch_are_not_used() {
        let data = Indices::default();
        let given = run(&data, &[(&[1, 2], &[3, 4]), (&[3, 5], &[])]).expect("sound samples");
        assert_eq!(given, [[1, 2], [3, 5]]);
    }

    #[test]
    fn a_failing_batch_is_an_error_only_in_its_own_step() {
        let data = Indices { broken: Some(4), ..Indices::default() };
        assert!(run(&data, &[(&[1, 2], &[3, 4])]).is_ok());
        let error = run(&data, &[(&[1, 2], &[3, 4]), (&[3, 4], &[])]).expect_err("4 is broken");
        assert!(error.to_string().contains("4 is broken"), "{error}");
    }
}
