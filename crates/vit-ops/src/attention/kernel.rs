//! Attention within one sample in lanes: sixteen keys of a row of weights, or sixteen numbers of a head's row.
#![expect(unsafe_code, reason = "bounds checks cost more than the products of narrow heads")]

use super::inputs::{Part, Sample, SampleGradients};
use super::sample::{Rows, SampleShape};
use super::softmax::{Added, GradScores, Softmax, softmax_registers};
use crate::lanes::{HALF, Lanes};
use crate::matrix::{Matrix, MatrixMut};
use crate::simd::Kernel;
use crate::slices::{LANES, copy};

/// The attention weights of one sample, `softmax(scale q kᵀ)` for each head.
pub(super) struct Weigh<'a> {
    pub(super) shape: SampleShape,
    pub(super) scale: f32,
    /// The numbers added to each head's scores.
    pub(super) added: AddedToHeads<'a>,
    pub(super) sample: Sample<'a>,
    pub(super) columns: &'a mut Columns,
    pub(super) weights: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { shape, scale, added, sample, columns, weights } = self;
        for (head, weights) in weights.chunks_exact_mut(shape.head_weights()).enumerate() {
            let added = added.to_head(head);
            columns.fill(shape, sample.rows(shape, Part::Keys, head));
            let queries = sample.rows(shape, Part::Queries, head);
            if shape.weights_row() == LANES {
                if added.to_all_rows() {
                    let to_all = added.register(lanes, 0, shape.tokens);
                    let added = |_: usize| to_all;
                    weigh_within_registers(lanes, shape, (scale, added), queries, columns, weights);
                } else {
                    let added = |query| added.register(lanes, query, shape.tokens);
                    weigh_within_registers(lanes, shape, (scale, added), queries, columns, weights);
                }
            } else {
                columns.products(lanes, shape, queries, weights);
                let tokens = shape.tokens;
                Softmax { tokens, scale, added, first: 0, scores: weights }.run(lanes);
            }
        }
    }
}

/// The numbers added to one sample's scaled scores.
#[derive(Clone, Copy, Default)]
pub(super) struct AddedToHeads<'a> {
    pub(super) added: Added<'a>,
    /// Stride between heads' biases; 0 if all heads share it.
    pub(super) bias_of_head: usize,
}

impl<'a> AddedToHeads<'a> {
    #[inline(always)]
    pub(super) fn to_head(self, head: usize) -> Added<'a> {
        let bias = self
            .added
            .bias
            .map(|Rows { data, stride }| Rows { data: &data[head * self.bias_of_head..], stride });
        Added { bias, ..self.added }
    }
}

/// The weights of one head, if a row is one register.
#[inline(always)]
fn weigh_within_registers<L: Lanes>(
    lanes: L,
    shape: SampleShape,
    (scale, added): (f32, impl Fn(usize) -> L::Vector),
    queries: Rows,
    columns: &Columns,
    weights: &mut [f32],
) {
    let weights = weights.as_chunks_mut().0;
    let columns = &columns.0[..shape.head_dim];
    // More rows of softmax than fit into AVX2's registers, but four are no faster.
    const R: usize = 8;
    let mut query = 0;
    while query + R <= shape.queries {
        let mut rows = [lanes.splat(0.0); R];
        if L::IS_ONE_REGISTER {
            rows = products_of::<L, R>(lanes, queries, query, columns);
        } else {
            for (index, half) in rows.as_chunks_mut().0.iter_mut().enumerate() {
                *half = products_of::<L, 4>(lanes, queries, query + 4 * index, columns);
            }
        }
        softmax_registers(lanes, &mut rows, scale, |r| added(query + r));
        for (row, weights) in rows.iter().zip(&mut weights[query..]) {
            lanes.store(*row, weights);
        }
        query += R;
    }
    while query < shape.queries {
        let mut rows = products_of::<L, 1>(lanes, queries, query, columns);
        softmax_registers(lanes, &mut rows, scale, |_| added(query));
        lanes.store(rows[0], &mut weights[query]);
        query += 1;
    }
}

/// The widest head: eight registers.
pub(super) const WIDEST_HEAD: usize = 8 * LANES;

/// A kernel that depends on a head's width in registers.
trait ByWidth {
    /// Runs with `C` vectors per row and `R` rows at a time, whose sums take half of the registers, or all of AVX2's in
    /// the widest heads. `H` heads share a row's vector.
    fn run_with<L: Lanes, const C: usize, const R: usize, const H: usize>(self, lanes: L);
}

#[inline(always)]
fn by_width<L: Lanes>(shape: SampleShape, kernel: impl ByWidth, lanes: L) {
    debug_assert!(shape.head_dim <= WIDEST_HEAD, "wider heads go through matrix products");
    match (shape.head_dim, L::IS_ONE_REGISTER) {
        (HALF, true) if shape.heads.is_multiple_of(2) => kernel.run_with::<L, 1, 8, 2>(lanes),
        (HALF, false) if shape.heads.is_multiple_of(2) => kernel.run_with::<L, 1, 4, 2>(lanes),
        (0..=16, true) => kernel.run_with::<L, 1, 8, 1>(lanes),
        (0..=16, false) => kernel.run_with::<L, 1, 4, 1>(lanes),
        (17..=32, true) => kernel.run_with::<L, 2, 8, 1>(lanes),
        (17..=32, false) => kernel.run_with::<L, 2, 2, 1>(lanes),
        (33..=64, true) => kernel.run_with::<L, 4, 4, 1>(lanes),
        (33..=64, false) => kernel.run_with::<L, 4, 1, 1>(lanes),
        (_, true) => kernel.run_with::<L, 8, 2, 1>(lanes),
        (_, false) => kernel.run_with::<L, 8, 1, 1>(lanes),
    }
}

/// The weights of each of `H` heads (queries, tokens).
#[inline(always)]
fn of_heads<const H: usize>(shape: SampleShape, weights: &[f32]) -> [Matrix<'_>; H] {
    let SampleShape { queries, tokens, .. } = shape;
    std::array::from_fn(|head| {
        let weights = &weights[head * shape.head_weights()..];
        Matrix::strided(weights, queries, tokens, shape.weights_row())
    })
}

/// The output of one sample, `y_i = sum_j w_ij v_j` for each head.
pub(super) struct WeighValues<'a> {
    pub(super) shape: SampleShape,
    pub(super) sample: Sample<'a>,
    pub(super) weights: &'a [f32],
    pub(super) ys: &'a mut [f32],
}

impl Kernel for WeighValues<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        by_width(self.shape, self, lanes);
    }
}

impl ByWidth for WeighValues<'_> {
    #[inline(always)]
    fn run_with<L: Lanes, const C: usize, const R: usize, const H: usize>(self, lanes: L) {
        let Self { shape, sample, weights, ys } = self;
        for (group, weights) in weights.chunks_exact(H * shape.head_weights()).enumerate() {
            let width = H * shape.head_dim;
            let ys = &mut ys[group * width..];
            let mut ys = MatrixMut::strided(ys, shape.queries, width, shape.dim());
            let values = sample.rows(shape, Part::Values, H * group);
            combine::<L, C, R, H>(lanes, of_heads(shape, weights), values, &mut ys);
        }
    }
}

/// The gradient of one sample's queries, keys and values.
///
/// With weights `P`, dropped weights `W` (which are `P` times the mask) and output gradient `G`:
/// `dV = Wᵀ G`, `dW = G Vᵀ`, `dS = W ∘ dW - P rowsum(W ∘ dW)`, `dQ = scale dS K`, `dK = scale dSᵀ Q`.
pub(super) struct Backward<'a> {
    pub(super) shape: SampleShape,
    pub(super) scale: f32,
    pub(super) sample: Sample<'a>,
    pub(super) before_dropout: &'a [f32],
    pub(super) after_dropout: &'a [f32],
    pub(super) grad: &'a [f32],
    pub(super) columns: &'a mut Columns,
    /// (2, queries, `weights_row`)
    pub(super) scores: &'a mut [f32],
    /// The gradient of the numbers added to the scores (heads, queries, `weights_row`), if requested.
    pub(super) of_added: Option<&'a mut [f32]>,
    pub(super) gradients: SampleGradients<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        by_width(self.shape, self, lanes);
    }
}

impl ByWidth for Backward<'_> {
    #[inline(always)]
    fn run_with<L: Lanes, const C: usize, const R: usize, const H: usize>(self, lanes: L) {
        let Self { shape, scale, sample, grad, columns, scores, mut gradients, .. } = self;
        let head_weights = shape.head_weights();
        let before = self.before_dropout.chunks_exact(H * head_weights);
        let after = self.after_dropout.chunks_exact(H * head_weights);
        let mut of_added = self.of_added.map(|all| all.chunks_exact_mut(head_weights));
        for (group, (before, after)) in before.zip(after).enumerate() {
            let first = H * group;
            let heads = before.chunks_exact(head_weights).zip(after.chunks_exact(head_weights));
            let heads = heads.zip(scores.chunks_exact_mut(head_weights));
            let grad_of = |head| Rows { data: &grad[head * shape.head_dim..], stride: shape.dim() };
            for (head, ((before_dropout, after_dropout), scores)) in heads.enumerate() {
                columns.fill(shape, sample.rows(shape, Part::Values, first + head));
                columns.products(lanes, shape, grad_of(first + head), scores);
                GradScores {
                    tokens: shape.tokens,
                    scale,
                    causal: false,
                    before_dropout,
                    after_dropout,
                    grad: scores,
                    of_added: of_added.as_mut().and_then(Iterator::next),
                }
                .run(lanes);
            }
            let [scores, after] = [&*scores, after].map(|weights| of_heads::<H>(shape, weights));
            let rows = |part| sample.rows(shape, part, first);
            let mut out = gradients.rows(shape, Part::Queries, first, H);
            combine::<L, C, R, H>(lanes, scores, rows(Part::Keys), &mut out);
            let mut out = gradients.rows(shape, Part::Keys, first, H);
            combine::<L, C, R, H>(
                lanes,
                scores.map(Matrix::transposed),
                rows(Part::Queries),
                &mut out,
            );
            let mut out = gradients.rows(shape, Part::Values, first, H);
            combine::<L, C, R, H>(lanes, after.map(Matrix::transposed), grad_of(first), &mut out);
        }
    }
}

/// A head's rows transposed: (`head_dim`, 16) for each sixteen tokens.
pub(super) struct Columns(Vec<[f32; LANES]>);

impl Columns {
    pub(super) fn new(shape: SampleShape) -> Self {
        Self(vec![[0.0; LANES]; shape.head_dim * shape.weights_row() / LANES])
    }

    #[inline(always)]
    fn fill(&mut self, shape: SampleShape, rows: Rows) {
        let SampleShape { tokens, head_dim, .. } = shape;
        let rows = Matrix::strided(rows.data, tokens, head_dim, rows.stride);
        let blocks = self.0.chunks_exact_mut(head_dim).zip((0..tokens).step_by(LANES));
        for (columns, first) in blocks {
            rows.rows(first, LANES.min(tokens - first)).transpose_into(columns);
        }
    }

    /// `out_ij = x_i · row_j` for the queries `i` and the tokens `j`.
    #[inline(always)]
    fn products<L: Lanes>(&self, lanes: L, shape: SampleShape, xs: Rows, out: &mut [f32]) {
        if L::IS_ONE_REGISTER {
            self.products_by::<L, 8>(lanes, shape, xs, out);
        } else {
            self.products_by::<L, 4>(lanes, shape, xs, out);
        }
    }

    /// The same, `R` queries at a time.
    #[inline(always)]
    fn products_by<L: Lanes, const R: usize>(
        &self,
        lanes: L,
        shape: SampleShape,
        xs: Rows,
        out: &mut [f32],
    ) {
        let blocks_in_row = shape.weights_row() / LANES;
        let out = out.as_chunks_mut().0;
        for (block, columns) in self.0.chunks_exact(shape.head_dim).enumerate().take(blocks_in_row)
        {
            let mut query = 0;
            while query + R <= shape.queries {
                let sums = products_of::<L, R>(lanes, xs, query, columns);
                for (r, sum) in sums.iter().enumerate() {
                    lanes.store(*sum, &mut out[(query + r) * blocks_in_row + block]);
                }
                query += R;
            }
            while query < shape.queries {
                let [sum] = products_of::<L, 1>(lanes, xs, query, columns);
                lanes.store(sum, &mut out[query * blocks_in_row + block]);
                query += 1;
            }
        }
    }
}

/// The products of `R` rows, from `first` on, with sixteen columns.
#[inline(always)]
fn products_of<L: Lanes, const R: usize>(
    lanes: L,
    xs: Rows,
    first: usize,
    columns: &[[f32; LANES]],
) -> [L::Vector; R] {
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &xs.get(first + r)[..columns.len()];
    }
    let mut sums = [lanes.splat(0.0); R];
    for (d, column) in columns.iter().enumerate() {
        let column = lanes.load(column);
        for (sum, row) in sums.iter_mut().zip(&rows) {
            *sum = lanes.mul_add(lanes.splat(row[d]), column, *sum);
        }
    }
    sums
}

/// `out_i = sum_j w_ij rows_j` for each row of weights. Each head's weights belong to its part of a row.
#[inline(always)]
fn combine<L: Lanes, const C: usize, const R: usize, const H: usize>(
    lanes: L,
    weights: [Matrix; H],
    rows: Rows,
    out: &mut MatrixMut,
) {
    let (count, inner) = (weights[0].rows, weights[0].columns);
    let whole = rows.whole::<C>(inner);
    assert!(weights.iter().all(|of_head| (of_head.rows, of_head.columns) == (count, inner)));
    assert!(whole.rows <= inner && whole.has_contiguous_rows(whole.rows, C * LANES));
    assert!(out.rows == count);
    let mut first = 0;
    while first + R <= count {
        // SAFETY: as just asserted, and all have `count` rows.
        unsafe { combine_some::<L, C, R, H>(lanes, weights, first, (whole, rows), out) };
        first += R;
    }
    while first < count {
        // SAFETY: as above.
        unsafe { combine_some::<L, C, 1, H>(lanes, weights, first, (whole, rows), out) };
        first += 1;
    }
}

/// The same for `R` rows of weights from `first` on.
///
/// # Safety
/// All heads' weights and the output have these rows, the weights have equally many columns, and `whole` has no more rows
/// than that, contiguous and of `C * LANES` columns.
#[inline(always)]
unsafe fn combine_some<L: Lanes, const C: usize, const R: usize, const H: usize>(
    lanes: L,
    weights: [Matrix; H],
    first: usize,
    (whole, rows): (Matrix, Rows),
    out: &mut MatrixMut,
) {
    let mut sums = [[lanes.splat(0.0); C]; R];
    let mut row = [lanes.splat(0.0); C];
    for index in 0..whole.rows {
        for (part, register) in row.iter_mut().enumerate() {
            // SAFETY: the caller vouches for `whole`.
            *register = lanes.load(unsafe { whole.part_unchecked(index, part * LANES) });
        }
        // SAFETY: as the caller vouches.
        unsafe { add_scaled(lanes, weights, (first, index), &row, &mut sums) };
    }
    for index in whole.rows..weights[0].columns {
        let row = rows.load_padded::<L, C>(lanes, index);
        // SAFETY: as the caller vouches.
        unsafe { add_scaled(lanes, weights, (first, index), &row, &mut sums) };
    }
    if out.columns == C * LANES {
        for (row, sums) in (first..).zip(&sums) {
            for (part, sum) in sums.iter().enumerate() {
                // SAFETY: there are so many columns, and the caller vouches for the row.
                lanes.store(*sum, unsafe { out.chunk_unchecked(row, part * LANES) });
            }
        }
    } else {
        for (row, sums) in (first..).zip(&sums) {
            store_part(lanes, sums, out.row(row));
        }
    }
}

/// Stores the beginning of the registers.
#[inline(always)]
fn store_part<L: Lanes, const C: usize>(lanes: L, registers: &[L::Vector; C], to: &mut [f32]) {
    let (blocks, rest) = to.as_chunks_mut();
    for (block, register) in blocks.iter_mut().zip(registers) {
        lanes.store(*register, block);
    }
    let Some(last) = registers.get(blocks.len()) else { return };
    let (halves, rest) = rest.as_chunks_mut();
    for half in halves.iter_mut() {
        lanes.store_half(*last, half);
    }
    if !rest.is_empty() {
        let mut padded = [0.0; LANES];
        lanes.store(*last, &mut padded);
        copy(&padded[halves.len() * HALF..][..rest.len()], rest);
    }
}

/// Adds a row times a column of weights to `R` sums.
///
/// # Safety
/// All heads have `R` rows from `first` on, and this column.
#[inline(always)]
unsafe fn add_scaled<L: Lanes, const C: usize, const R: usize, const H: usize>(
    lanes: L,
    weights: [Matrix; H],
    (first, column): (usize, usize),
    row: &[L::Vector; C],
    sums: &mut [[L::Vector; C]; R],
) {
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller vouches for it.
        let of_heads = weights.map(|of_head| unsafe { of_head.get_unchecked(first + r, column) });
        let weight = match of_heads[..] {
            [low, high] => lanes.splat_halves(low, high),
            _ => lanes.splat(of_heads[0]),
        };
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum = lanes.mul_add(weight, *x, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::inputs::Inputs;
    use crate::attention::sample::SampleLayout;
    use crate::simd::{self, run_on};
    use pulp::Arch;

    /// One sample.
    #[derive(Clone, Copy)]
    struct ThereAndBack {
        shape: SampleShape,
        masked: bool,
        causal: bool,
    }

    impl ThereAndBack {
        /// Outputs and gradients.
        fn run(self, arch: Arch) -> [Vec<f32>; 2] {
            let (shape, scale) = (self.shape, 0.35);
            let waves = |len: usize, pace: f32| -> Vec<f32> {
                (0..len).map(|i| (i as f32 * pace).sin()).collect()
            };
            let (qkv, grad) = (waves(shape.packed(), 0.7), waves(shape.output(), 1.3));
            let sample = Inputs::Packed(&qkv).sample(SampleLayout { shape, row: 0, out: 0 });
            let mut mask = vec![0.0; shape.weights_row()];
            mask[shape.tokens..].fill(f32::NEG_INFINITY);
            mask[shape.tokens / 2] = if shape.tokens > 1 { f32::NEG_INFINITY } else { 0.0 };
            let bias = waves(shape.head_weights(), 0.9);
            let bias = Rows { data: &bias, stride: shape.tokens };
            let (mask, bias) = (self.masked.then_some(&mask[..]), self.masked.then_some(bias));
            let added = Added { mask, causal: self.causal, bias };
            let added = AddedToHeads { added, bias_of_head: 0 };
            let mut weights = vec![0.0; shape.weights()];
            let mut ys = vec![0.0; shape.output()];
            let mut grad_qkv = vec![0.0; shape.packed()];
            let mut columns = Columns::new(shape);
            let columns = &mut columns;
            run_on(arch, Weigh { shape, scale, added, sample, columns, weights: &mut weights });
            run_on(arch, WeighValues { shape, sample, weights: &weights, ys: &mut ys });
            let (before_dropout, after_dropout) = (&weights[..], &weights[..]);
            let backward = Backward {
                shape,
                scale,
                sample,
                before_dropout,
                after_dropout,
                grad: &grad,
                columns,
                scores: &mut vec![0.0; 2 * shape.head_weights()],
                of_added: None,
                gradients: SampleGradients::Packed(&mut grad_qkv),
            };
            run_on(arch, backward);
            [ys, grad_qkv]
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for tokens in [1, 15, 16, 17, 33] {
            for head_dim in [1, 7, 8, 12, 16, 20, 32, 40, 64, 100, 128] {
                for queries in [tokens, 1] {
                    let shape = SampleShape { tokens, queries, heads: 2, head_dim };
                    for (masked, causal) in
                        [(false, false), (true, false), (false, true), (true, true)]
                    {
                        let there_and_back = ThereAndBack { shape, masked, causal };
                        simd::assert_paths_agree((shape, masked, causal), |arch| {
                            there_and_back.run(arch).concat()
                        });
                    }
                }
            }
        }
    }
}
