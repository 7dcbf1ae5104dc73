//! The order of samples in an epoch, and its division into batches.

use vit_random::{Random, Site};

const ORDER: Site = Site::named("order");
const HOLD_OUT: Site = Site::named("hold-out");

/// The order of samples in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Shuffled anew in each epoch, by [`epoch_order`].
    Shuffled {
        /// The seed.
        seed: u64,
    },
    /// In the dataset's order.
    InOrder,
}

impl Order {
    /// The indices `0..len` in this order.
    ///
    /// # Panics
    /// If `len` does not fit into 32 bits.
    #[must_use]
    pub fn epoch(self, len: usize, epoch: u64) -> Vec<u32> {
        match self {
            Self::Shuffled { seed } => epoch_order(len, seed, epoch),
            Self::InOrder => in_order(len),
        }
    }
}

/// The indices `0..len`, shuffled; a function of seed and epoch.
///
/// # Panics
/// If `len` does not fit into 32 bits.
#[must_use]
pub fn epoch_order(len: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order = in_order(len);
    Random::new(seed).at_step(epoch).stream(ORDER, 0).shuffle(&mut order);
    order
}

/// Splits the indices `0..len` into those kept and the share `held_out`, rounded; both in ascending order. A function
/// of the seed.
///
/// # Panics
/// If `len` does not fit into 32 bits.
#[must_use]
pub fn hold_out(len: usize, held_out: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut indices = in_order(len);
    Random::new(seed).stream(HOLD_OUT, 0).shuffle(&mut indices);
    let count = ((len as f64 * held_out).round() as usize).min(len);
    let mut held_out: Vec<u32> = indices.drain(..count).collect();
    held_out.sort_unstable();
    indices.sort_unstable();
    (indices, held_out)
}

/// What to do with an incomplete last batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Last {
    /// Drop it, so that all batches have one size.
    Drop,
    /// Keep it, so that every sample is used.
    Keep,
}

/// Divides an order into batches.
///
/// # Panics
/// If `batch_size` is 0.
pub fn batches(
    order: &[u32],
    batch_size: usize,
    last: Last,
) -> impl ExactSizeIterator<Item = &[u32]> {
    assert!(batch_size > 0, "expected a batch size of at least 1, got 0");
    let count = match last {
        Last::Drop => order.len() / batch_size,
        Last::Keep => order.len().div_ceil(batch_size),
    };
    order.chunks(batch_size).take(count)
}

fn in_order(len: usize) -> Vec<u32> {
    let len = u32::try_from(len).expect("fewer than 2^32 samples");
    (0..len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_appears_once_an_epoch() {
        for len in [0, 1, 2, 7, 64, 1000] {
            for epoch in 0..3 {
                let mut order = epoch_order(len, 42, epoch);
                order.sort_unstable();
                assert_eq!(order, in_order(len));
            }
        }
    }

    #[test]
    fn the_order_is_a_function_of_seed_and_epoch() {
        let order = epoch_order(1000, 42, 3);
        assert_eq!(order, epoch_order(1000, 42, 3));
        assert_eq!(order, Order::Shuffled { seed: 42 }.epoch(1000, 3));
        for (seed, epoch) in [(42, 4), (43, 3), (3, 42)] {
            assert_ne!(order, epoch_order(1000, seed, epoch));
        }
    }

    /// Changing these numbers changes every training run.
    #[test]
    fn the_order_never_changes() {
        assert_eq!(epoch_order(10, 0, 1), [0, 2, 3, 9, 5, 4, 8, 6, 7, 1]);
    }

    #[test]
    fn held_out_samples_are_the_given_share_and_follow_the_seed() {
        let (kept, held_out) = hold_out(1000, 0.1, 7);
        assert_eq!((kept.len(), held_out.len()), (900, 100));
        let mut all = [kept.clone(), held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, in_order(1000));
        assert_eq!(hold_out(1000, 0.1, 7), (kept, held_out.clone()));
        assert_ne!(hold_out(1000, 0.1, 8).1, held_out);
        assert_eq!(hold_out(10, 0.0, 7), (in_order(10), vec![]));
    }

    #[test]
    fn shuffled_samples_are_spread_evenly() {
        // Over many epochs the mean position of each sample is the middle.
        let (len, epochs) = (16, 4000);
        let mut sums = vec![0; len];
        for epoch in 0..epochs {
            for (position, sample) in epoch_order(len, 1, epoch).into_iter().enumerate() {
                sums[sample as usize] += position;
            }
        }
        // The standard error of a mean of 4000 positions in 0..16 is 0.073; five of them.
        assert!(
            sums.iter().all(|&sum| (sum as f64 / epochs as f64 - 7.5).abs() < 0.37),
            "{sums:?}"
        );
    }

    #[test]
    fn unshuffled_order_is_the_same_in_every_epoch() {
        assert_eq!(Order::InOrder.epoch(4, 9), [0, 1, 2, 3]);
    }

    #[test]
    fn the_last_batch_is_dropped_or_kept() {
        let order = in_order(10);
        let sizes = |batch_size, last| -> Vec<usize> {
            batches(&order, batch_size, last).map(<[u32]>::len).collect()
        };
        assert_eq!(sizes(4, Last::Drop), [4, 4]);
        assert_eq!(sizes(4, Last::Keep), [4, 4, 2]);
        for last in [Last::Drop, Last::Keep] {
            assert_eq!(sizes(5, last), [5, 5]);
        }
        assert!(sizes(11, Last::Drop).is_empty());
        assert_eq!(sizes(11, Last::Keep), [10]);
        assert_eq!(batches(&[], 4, Last::Keep).len(), 0);
    }

    #[test]
    fn batches_hold_the_order() {
        let order = epoch_order(103, 5, 1);
        assert_eq!(batches(&order, 8, Last::Keep).collect::<Vec<_>>().concat(), order);
        assert_eq!(batches(&order, 8, Last::Drop).collect::<Vec<_>>().concat(), order[..96]);
    }
}
