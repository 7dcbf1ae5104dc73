//! The sizes of one sample, and its heads' rows.

use crate::lanes::Lanes;
use crate::matrix::Matrix;
use crate::slices::{LANES, copy};

/// Cost of a score's exponential in multiply-adds for [`parallel`](crate::parallel).
const SCORE_COST: usize = 32;

/// The sizes of one sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SampleShape {
    /// Tokens with keys and values.
    pub(crate) tokens: usize,
    /// Requested rows; for packed inputs, the first tokens'.
    pub(crate) queries: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl SampleShape {
    #[inline(always)]
    pub(crate) fn dim(self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers in the packed rows of a sample (tokens, 3 * dim).
    #[inline(always)]
    pub(crate) fn packed(self) -> usize {
        self.tokens * 3 * self.dim()
    }

    /// Numbers in the keys and values of a sample (tokens, 2 * dim).
    #[inline(always)]
    pub(crate) fn keys_and_values(self) -> usize {
        self.tokens * 2 * self.dim()
    }

    /// Numbers in the output (queries, dim).
    #[inline(always)]
    pub(crate) fn output(self) -> usize {
        self.queries * self.dim()
    }

    /// Numbers in a row of weights: the tokens, then zeros up to a whole register.
    #[inline(always)]
    pub(crate) fn weights_row(self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }

    /// Numbers in the weights of one head (queries, `weights_row`).
    #[inline(always)]
    pub(crate) fn head_weights(self) -> usize {
        self.queries * self.weights_row()
    }

    /// Numbers in a sample's dropout masks (queries, heads, padded), if padded to so many tokens.
    #[inline(always)]
    pub(crate) fn masks(self, padded: usize) -> usize {
        self.queries * self.heads * padded
    }

    /// Multiply-adds of `products` products of the scores' size.
    pub(crate) fn multiply_adds(self, products: usize) -> usize {
        let Self { tokens, queries, heads, head_dim } = self;
        heads * queries * tokens * (products * head_dim + SCORE_COST)
    }

    /// Numbers in a sample's weights (heads, queries, `weights_row`).
    #[inline(always)]
    pub(crate) fn weights(self) -> usize {
        self.heads * self.head_weights()
    }
}

/// A sample's shape, and where it begins in its batch. Samples may have different lengths, stored in sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleLayout {
    pub(super) shape: SampleShape,
    /// The row of its first token.
    pub(super) row: usize,
    /// The row of its first query in the output.
    pub(super) out: usize,
}

/// The samples of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    layouts: Vec<SampleLayout>,
    /// The sizes of the longest.
    pub(super) largest: SampleShape,
    /// The padded length of samples, which determines dropout masks.
    pub(super) padded: usize,
}

impl Samples {
    /// `batch` samples of equal sizes.
    pub(crate) fn equal(batch: usize, shape: SampleShape) -> Self {
        let SampleShape { tokens, queries, .. } = shape;
        let layout = |index| SampleLayout { shape, row: index * tokens, out: index * queries };
        Self { layouts: (0..batch).map(layout).collect(), largest: shape, padded: tokens }
    }

    /// Samples of these lengths, packed without padding. `shape` is a sample's with padding. Each has all its queries
    /// or the first only.
    pub(crate) fn packed(lengths: &[usize], shape: SampleShape) -> Self {
        let first = shape.queries < shape.tokens;
        let (mut row, mut out) = (0, 0);
        let layouts = lengths.iter().map(|&tokens| {
            let queries = if first { tokens.min(shape.queries) } else { tokens };
            let shape = SampleShape { tokens, queries, ..shape };
            let layout = SampleLayout { shape, row, out };
            (row, out) = (row + tokens, out + queries);
            layout
        });
        let layouts: Vec<SampleLayout> = layouts.collect();
        let tokens = lengths.iter().copied().max().unwrap_or_default();
        let queries = if first { tokens.min(shape.queries) } else { tokens };
        let largest = SampleShape { tokens, queries, ..shape };
        Self { layouts, largest, padded: shape.tokens }
    }

    pub(super) fn layouts(&self) -> &[SampleLayout] {
        &self.layouts
    }

    /// The sum of a number over all samples.
    pub(super) fn total(&self, of: impl Fn(SampleShape) -> usize) -> usize {
        self.layouts.iter().map(|layout| of(layout.shape)).sum()
    }

    /// Cuts `all` into parts, one per sample, of these sizes.
    pub(super) fn cut<'a>(
        &self,
        all: &'a mut [f32],
        of: impl Fn(SampleShape) -> usize,
    ) -> Vec<&'a mut [f32]> {
        let mut rest = all;
        let parts = self.layouts.iter().map(|layout| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(of(layout.shape));
            rest = others;
            part
        });
        parts.collect()
    }

    /// The same for reading.
    pub(super) fn parts<'a>(
        &self,
        all: &'a [f32],
        of: impl Fn(SampleShape) -> usize,
    ) -> Vec<&'a [f32]> {
        let mut rest = all;
        let parts = self.layouts.iter().map(|layout| {
            let (part, others) = rest.split_at(of(layout.shape));
            rest = others;
            part
        });
        parts.collect()
    }
}

/// Row `i` begins at `i * stride`; numbers after its own belong to other rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(super) fn get(self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..]
    }

    /// As many of the first `count` rows as have `C` registers in memory. Lanes beyond a row's numbers hold arbitrary
    /// values.
    #[inline(always)]
    pub(super) fn whole<const C: usize>(self, count: usize) -> Matrix<'a> {
        let fit = self.data.len().checked_sub(C * LANES).map_or(0, |after| 1 + after / self.stride);
        Matrix::strided(self.data, count.min(fit), C * LANES, self.stride)
    }

    /// The first `C` registers of a row near the end of memory, with zeros beyond it.
    #[inline(always)]
    pub(super) fn load_padded<L: Lanes, const C: usize>(
        self,
        lanes: L,
        row: usize,
    ) -> [L::Vector; C] {
        let mut padded = [[0.0; LANES]; C];
        copy(self.get(row), padded.as_flattened_mut());
        padded.map(|part| lanes.load(&part))
    }
}
