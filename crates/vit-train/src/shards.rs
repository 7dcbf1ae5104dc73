//! Where a batch is cut: at borders that depend on its size and the number of shards, never on threads.

use std::ops::Range;

/// The shards of a batch, in order: as equal as can be, none empty.
pub(crate) fn shards(batch: usize, count: usize) -> Vec<Range<usize>> {
    let count = count.min(batch);
    (0..count).map(|index| index * batch / count..(index + 1) * batch / count).collect()
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
