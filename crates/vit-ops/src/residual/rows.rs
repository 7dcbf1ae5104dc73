//! The tokens of a batch as rows, without padding.

use crate::TokenMask;

/// The number of rows of each sample, stored in sequence.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) lengths: Vec<usize>,
    /// The tokens of a sample, padding included.
    pub(super) padded: usize,
}

impl Rows {
    pub(super) fn new(batch: usize, tokens: usize, mask: Option<&TokenMask>) -> Self {
        let lengths = mask.and_then(TokenMask::lengths);
        Self {
            lengths: lengths.map_or_else(|| vec![tokens; batch], <[usize]>::to_vec),
            padded: tokens,
        }
    }

    /// Only the first row of each sample.
    pub(super) fn firsts(&self) -> Self {
        Self { lengths: vec![1; self.lengths.len()], padded: 1 }
    }

    pub(super) fn count(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Whether there is no padding.
    pub(super) fn whole(&self) -> bool {
        self.lengths.iter().all(|&length| length == self.padded)
    }

    /// Cuts rows of `dim` numbers into each sample's.
    pub(super) fn cut<'a>(&self, rows: &'a mut [f32], dim: usize) -> Vec<&'a mut [f32]> {
        let mut rest = rows;
        let parts = self.lengths.iter().map(|length| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(length * dim);
            rest = others;
            part
        });
        parts.collect()
    }

    /// (batch, padded, dim) -> rows
    pub(super) fn pack(&self, padded: &[f32], dim: usize, rows: &mut [f32]) {
        let samples = padded.chunks_exact(self.padded * dim);
        for (to, from) in self.cut(rows, dim).into_iter().zip(samples) {
            to.copy_from_slice(&from[..to.len()]);
        }
    }

    /// rows -> (batch, padded, dim), with zeros for padding
    pub(super) fn unpack(&self, rows: &[f32], dim: usize, padded: &mut [f32]) {
        let mut rest = rows;
        for (to, length) in padded.chunks_exact_mut(self.padded * dim).zip(&self.lengths) {
            let (from, others) = rest.split_at(length * dim);
            rest = others;
            to[..from.len()].copy_from_slice(from);
            to[from.len()..].fill(0.0);
        }
    }

    /// The first row of each sample.
    pub(super) fn take_firsts(&self, rows: &[f32], dim: usize, firsts: &mut [f32]) {
        let mut row = 0;
        for (first, length) in firsts.chunks_exact_mut(dim).zip(&self.lengths) {
            first.copy_from_slice(&rows[row * dim..][..dim]);
            row += length;
        }
    }

    /// Adds to the first row of each sample.
    pub(super) fn add_to_firsts(&self, rows: &mut [f32], dim: usize, firsts: &[f32]) {
        for (rows, first) in self.cut(rows, dim).into_iter().zip(firsts.chunks_exact(dim)) {
            for (x, y) in rows.iter_mut().zip(first) {
                *x += y;
            }
        }
    }
}
