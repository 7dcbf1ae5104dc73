//! Attention within one sample, on slices: each head's rows are copied into tiles whose widths are whole vector
//! registers, zero beyond the head's own.

use crate::slices::{self, LANES};
use crate::softmax::softmax_in_place;

/// The sizes of one sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleShape {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

impl SampleShape {
    pub(super) fn dim(self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers in a row of weights: the tokens, and zeros up to a whole register.
    pub(super) fn weights_row(self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }

    /// Numbers in a sample's weights (heads, tokens, `weights_row`).
    pub(super) fn weights(self) -> usize {
        self.heads * self.tokens * self.weights_row()
    }
}

/// Room for one head, used again for the next: its rows, of `D` numbers each.
pub(super) struct Tiles<const D: usize> {
    queries: Vec<[f32; D]>,
    keys: Vec<[f32; D]>,
    values: Vec<[f32; D]>,
    grad: Vec<[f32; D]>,
    /// (D, weights_row): keys in the forward pass, values in the backward pass.
    columns: Vec<f32>,
    /// (tokens, weights_row)
    scores: Vec<f32>,
}

impl<const D: usize> Tiles<D> {
    pub(super) fn new(shape: SampleShape) -> Self {
        let rows = || vec![[0.0; D]; shape.tokens];
        Self {
            queries: rows(),
            keys: rows(),
            values: rows(),
            grad: rows(),
            columns: vec![0.0; D * shape.weights_row()],
            scores: vec![0.0; shape.tokens * shape.weights_row()],
        }
    }
}

/// The attention weights of one sample, `softmax(scale q kᵀ)` for each head.
#[inline(always)]
pub(super) fn weights<const D: usize>(
    shape: SampleShape,
    scale: f32,
    qkv: &[f32],
    tiles: &mut Tiles<D>,
    weights: &mut [f32],
) {
    let row_len = shape.weights_row();
    for (head, weights) in weights.chunks_exact_mut(shape.tokens * row_len).enumerate() {
        load(shape, Third::Queries, head, qkv, &mut tiles.queries);
        load(shape, Third::Keys, head, qkv, &mut tiles.keys);
        transpose(&tiles.keys, row_len, &mut tiles.columns);
        for (query, row) in tiles.queries.iter().zip(weights.chunks_exact_mut(row_len)) {
            row_times_columns(&query.map(|x| scale * x), &tiles.columns, row);
            softmax_in_place(&mut row[..shape.tokens]);
            row[shape.tokens..].fill(0.0);
        }
    }
}

/// The output of one sample, `y_i = sum_j w_ij v_j` for each head.
#[inline(always)]
pub(super) fn weigh_values<const D: usize>(
    shape: SampleShape,
    qkv: &[f32],
    weights: &[f32],
    tiles: &mut Tiles<D>,
    ys: &mut [f32],
) {
    let row_len = shape.weights_row();
    for (head, weights) in weights.chunks_exact(shape.tokens * row_len).enumerate() {
        load(shape, Third::Values, head, qkv, &mut tiles.values);
        for (row, y) in weights.chunks_exact(row_len).zip(ys.chunks_exact_mut(shape.dim())) {
            let sum = combine(row.iter().copied(), &tiles.values);
            y[head * shape.head_dim..][..shape.head_dim].copy_from_slice(&sum[..shape.head_dim]);
        }
    }
}

/// The gradient of one sample's packed rows.
///
/// With weights `P`, dropped weights `W` (which are `P` times the mask) and output gradient `G`:
/// `dV = Wᵀ G`, `dW = G Vᵀ`, `dS = W ∘ dW - P rowsum(W ∘ dW)`, `dQ = scale dS K`, `dK = scale dSᵀ Q`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is another array of the equation")]
pub(super) fn backward<const D: usize>(
    shape: SampleShape,
    scale: f32,
    qkv: &[f32],
    before_dropout: &[f32],
    after_dropout: &[f32],
    grad: &[f32],
    tiles: &mut Tiles<D>,
    grad_qkv: &mut [f32],
) {
    let (row_len, head_dim) = (shape.weights_row(), shape.head_dim);
    let head_weights = shape.tokens * row_len;
    for (head, (before, after)) in before_dropout
        .chunks_exact(head_weights)
        .zip(after_dropout.chunks_exact(head_weights))
        .enumerate()
    {
        load(shape, Third::Queries, head, qkv, &mut tiles.queries);
        load(shape, Third::Keys, head, qkv, &mut tiles.keys);
        load(shape, Third::Values, head, qkv, &mut tiles.values);
        for (row, grad) in tiles.grad.iter_mut().zip(grad.chunks_exact(shape.dim())) {
            row[..head_dim].copy_from_slice(&grad[head * head_dim..][..head_dim]);
        }
        transpose(&tiles.values, row_len, &mut tiles.columns);
        let rows = tiles.scores.chunks_exact_mut(row_len).zip(&tiles.grad);
        let weights = before.chunks_exact(row_len).zip(after.chunks_exact(row_len));
        for ((score, grad), (before, after)) in rows.zip(weights) {
            row_times_columns(grad, &tiles.columns, score);
            for (score, after) in score.iter_mut().zip(after) {
                *score *= after;
            }
            let total = slices::sum(score);
            for (score, before) in score.iter_mut().zip(before) {
                *score = scale * (*score - before * total);
            }
        }
        for token in 0..shape.tokens {
            let of_query = tiles.scores[token * row_len..][..row_len].iter().copied();
            let query = combine(of_query, &tiles.keys);
            store(shape, Third::Queries, head, token, &query, grad_qkv);
            let of_key = tiles.scores[token..].iter().step_by(row_len).copied();
            let key = combine(of_key, &tiles.queries);
            store(shape, Third::Keys, head, token, &key, grad_qkv);
            let of_value = after[token..].iter().step_by(row_len).copied();
            let value = combine(of_value, &tiles.grad);
            store(shape, Third::Values, head, token, &value, grad_qkv);
        }
    }
}

/// Which part of a packed row.
#[derive(Clone, Copy)]
enum Third {
    Queries = 0,
    Keys = 1,
    Values = 2,
}

/// Where a head's part of a token's packed row begins.
#[inline(always)]
fn start(shape: SampleShape, third: Third, head: usize, token: usize) -> usize {
    (3 * token + third as usize) * shape.dim() + head * shape.head_dim
}

/// Copies a head's rows; what lies beyond its width stays zero.
#[inline(always)]
fn load<const D: usize>(
    shape: SampleShape,
    third: Third,
    head: usize,
    qkv: &[f32],
    rows: &mut [[f32; D]],
) {
    for (token, row) in rows.iter_mut().enumerate() {
        let part = &qkv[start(shape, third, head, token)..][..shape.head_dim];
        row[..shape.head_dim].copy_from_slice(part);
    }
}

#[inline(always)]
fn store<const D: usize>(
    shape: SampleShape,
    third: Third,
    head: usize,
    token: usize,
    row: &[f32; D],
    grad_qkv: &mut [f32],
) {
    let part = &mut grad_qkv[start(shape, third, head, token)..][..shape.head_dim];
    part.copy_from_slice(&row[..shape.head_dim]);
}

/// Element (d, token) at `d * row_len + token`.
#[inline(always)]
fn transpose<const D: usize>(rows: &[[f32; D]], row_len: usize, columns: &mut [f32]) {
    for (token, row) in rows.iter().enumerate() {
        for (d, &x) in row.iter().enumerate() {
            columns[d * row_len + token] = x;
        }
    }
}

/// `out_j = sum_d x_d columns_dj`, a register of `j` at a time.
#[inline(always)]
fn row_times_columns<const D: usize>(x: &[f32; D], columns: &[f32], out: &mut [f32]) {
    let row_len = out.len();
    for (block, out) in out.chunks_exact_mut(LANES).enumerate() {
        let mut sums = [0.0_f32; LANES];
        for (&x, column) in x.iter().zip(columns.chunks_exact(row_len)) {
            let column = &column[block * LANES..][..LANES];
            for (sum, c) in sums.iter_mut().zip(column) {
                *sum += x * c;
            }
        }
        out.copy_from_slice(&sums);
    }
}

/// `sum_j w_j rows_j`; weights beyond the rows are not read.
#[inline(always)]
fn combine<const D: usize>(weights: impl Iterator<Item = f32>, rows: &[[f32; D]]) -> [f32; D] {
    let mut sums = [0.0_f32; D];
    for (row, weight) in rows.iter().zip(weights) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += weight * x;
        }
    }
    sums
}
