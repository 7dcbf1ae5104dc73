//! Attention over many tokens: each head's products as matrices, directly on the packed rows.

use super::DropoutSource;
use super::bias::Bias;
use super::inputs::{Gradients, Inputs, Part, Sample};
use super::kernel::WIDEST_HEAD;
use super::op::{Attending, Saved};
use super::sample::{SampleShape, Samples};
use super::softmax::{GradScores, Softmax};
use crate::buffer::Buffer;
use crate::matmul::multiply;
use crate::matrix::{Block, Matrix, MatrixMut};
use crate::{parallel, simd, slices};

/// Whether to use this form. The one in [`kernel`](super::kernel) has a maximum head width, and is up to twice as fast
/// for few tokens or narrow heads. With many tokens both are equally fast, but only this one splits a sample over threads.
pub(super) fn suits(shape: SampleShape) -> bool {
    let SampleShape { tokens, head_dim, .. } = shape;
    tokens >= 128 || head_dim > WIDEST_HEAD || (tokens >= 32 && head_dim >= 32)
}

/// Queries per block: their scores stay in the cache, and one image has blocks for several threads.
const QUERIES: usize = 128;

/// Queries per block of a causal sequence, whose queries see no key after the block.
const CAUSAL_QUERIES: usize = 64;

/// Cost of a random number in multiply-adds.
const DRAW_COST: usize = 16;

/// The form for any number of tokens and width of heads.
pub(crate) struct LargeAttention(pub(super) Attending);

impl LargeAttention {
    /// Queries or keys per block.
    fn block(&self) -> usize {
        if self.0.causal { CAUSAL_QUERIES } else { QUERIES }
    }

    pub(super) fn forward(&self, inputs: Inputs, bias: Option<Bias>, ys: &mut [f32]) -> Saved {
        let Attending { samples, scale, causal, dropout, tracked, .. } = &self.0;
        let drawn = dropout.map(|dropout| draw(samples, dropout));
        let masks = drawn.as_deref().map(|drawn| DrawnMasks::of(samples, drawn));
        let weights_len = if *tracked { samples.total(SampleShape::weights) } else { 0 };
        let mut weights = Buffer::dirty(weights_len);
        let mut of_samples = match tracked {
            true => samples.cut(&mut weights, SampleShape::weights),
            false => Vec::new(),
        }
        .into_iter();
        let at_once = self.block();
        let mut pieces = Vec::new();
        for (index, ys) in samples.cut(ys, SampleShape::output).into_iter().enumerate() {
            let layout = samples.layouts()[index];
            let (shape, sample) = (layout.shape, inputs.sample(layout));
            let SampleShape { queries, head_dim, .. } = shape;
            let block_len = at_once.min(queries) * shape.weights_row();
            let mut of_blocks = of_samples.next().into_iter().flat_map(|of_sample| {
                let heads = of_sample.chunks_exact_mut(shape.head_weights());
                heads.flat_map(move |head| head.chunks_mut(block_len))
            });
            let ys = MatrixMut::strided(ys, queries, shape.dim(), shape.dim());
            for (head, ys) in ys.blocks((queries, head_dim)).into_iter().enumerate() {
                for block in ys.out.blocks((at_once, head_dim)) {
                    pieces.push(Piece {
                        index,
                        shape,
                        sample,
                        head,
                        block,
                        saved: of_blocks.next(),
                    });
                }
            }
        }
        let largest = samples.largest;
        let block_len = at_once.min(largest.queries) * largest.weights_row();
        let scores_len = if *tracked { 0 } else { block_len };
        let dropped_len = if masks.is_some() { block_len } else { 0 };
        parallel::for_each_with(
            self.0.multiply_adds(2),
            pieces,
            || (Buffer::dirty(scores_len), Buffer::dirty(dropped_len)),
            |(scores, dropped), Piece { index, shape, sample, head, mut block, saved }| {
                let [q, k, v] = matrices(shape, head, sample);
                let (query, row_len) = (block.row, shape.weights_row());
                let rows = at_once.min(shape.queries - query);
                // Keys after the block's last query have no weight.
                let seen = if *causal { shape.tokens.min(query + rows) } else { shape.tokens };
                let weights = saved.unwrap_or_else(|| &mut scores[..rows * row_len]);
                let mut scores = MatrixMut::strided(weights, rows, seen, row_len);
                let (q, keys) = (q.rows(query, rows), k.rows(0, seen));
                multiply(q, keys.transposed(), &mut scores);
                let added = self.0.added(index, bias).to_head(head);
                let tokens = shape.tokens;
                simd::run_fused(Softmax {
                    tokens,
                    scale: *scale,
                    added,
                    first: query,
                    scores: weights,
                });
                let weights = match &masks {
                    Some(masks) => masks.drop((index, shape), head, query, weights, dropped),
                    None => weights,
                };
                let weights = Matrix::strided(weights, rows, seen, row_len);
                multiply(weights, v.rows(0, seen), &mut block.out);
            },
        );
        Saved { weights, dropped: drawn }
    }

    /// With dropped weights `W` and output gradient `G`: `dV = Wᵀ G`, `dW = G Vᵀ`, `dS` from [`GradScores`],
    /// `dQ = dS K`, `dK = dSᵀ Q`.
    pub(super) fn backward(
        &self,
        saved: &Saved,
        inputs: Inputs,
        grad: &[f32],
        gradients: Gradients,
        of_added: Option<&mut [f32]>,
    ) {
        let Attending { samples, scale, causal, .. } = &self.0;
        let (scale, causal) = (*scale, *causal);
        let masks = saved.dropped.as_deref().map(|drawn| DrawnMasks::of(samples, drawn));
        let weights = samples.parts(&saved.weights, SampleShape::weights);
        let grads = samples.parts(grad, SampleShape::output);
        let of_added = of_added.map(|all| samples.cut(all, SampleShape::weights));
        let mut of_added = of_added.into_iter().flatten();
        let mut pieces = Vec::new();
        for (index, gradients) in gradients.samples(samples).into_iter().enumerate() {
            let layout = samples.layouts()[index];
            let (shape, sample) = (layout.shape, inputs.sample(layout));
            let mut of_added =
                of_added.next().map(|all| all.chunks_exact_mut(shape.head_weights()));
            let [q, k, v] = gradients.matrices(shape);
            let q = q.blocks((shape.queries, shape.head_dim));
            let [k, v] = [k, v].map(|part| part.blocks((shape.tokens, shape.head_dim)));
            for (head, ((q, k), v)) in q.into_iter().zip(k).zip(v).enumerate() {
                let of_added = of_added.as_mut().and_then(Iterator::next);
                pieces.push((index, sample, head, [q.out, k.out, v.out], of_added));
            }
        }
        let len = samples.largest.head_weights();
        let dropped_len = if masks.is_some() { len } else { 0 };
        parallel::for_each_with(
            self.0.multiply_adds(5),
            pieces,
            || (Buffer::dirty(len), Buffer::dirty(dropped_len)),
            |(scratch, dropped), (index, sample, head, [of_q, of_k, of_v], of_added)| {
                let shape = samples.layouts()[index].shape;
                let SampleShape { tokens, queries, head_dim, .. } = shape;
                let (row_len, len) = (shape.weights_row(), shape.head_weights());
                let [q, k, v] = matrices(shape, head, sample);
                let grad = &grads[index][head * head_dim..];
                let grad = Matrix::strided(grad, queries, head_dim, shape.dim());
                let weights = &weights[index][head * len..][..len];
                let scratch = &mut scratch[..len];
                // A causal sequence skips the blocks above the diagonal.
                let at_once = if causal { CAUSAL_QUERIES } else { queries.max(tokens).max(1) };
                let of_weights = MatrixMut::strided(scratch, queries, tokens, row_len);
                for Block { row, out, .. } in of_weights.blocks((at_once, tokens)) {
                    let (rows, seen) = seen_by(row, at_once, queries, tokens);
                    let (mut out, _unseen) = out.split_columns(seen);
                    let (grad, v) = (grad.rows(row, rows), v.rows(0, seen));
                    multiply(grad, v.transposed(), &mut out);
                }
                let after = match &masks {
                    Some(masks) => masks.drop((index, shape), head, 0, weights, dropped),
                    None => weights,
                };
                simd::run(GradScores {
                    tokens,
                    scale,
                    causal,
                    before_dropout: weights,
                    after_dropout: after,
                    grad: scratch,
                    of_added,
                });
                let dropped = Matrix::strided(after, queries, tokens, row_len);
                let of_scores = Matrix::strided(scratch, queries, tokens, row_len);
                for Block { row, mut out, .. } in of_q.blocks((at_once, head_dim)) {
                    let (rows, seen) = seen_by(row, at_once, queries, tokens);
                    let of_scores = of_scores.rows(row, rows).columns(0, seen);
                    multiply(of_scores, k.rows(0, seen), &mut out);
                }
                for (of_part, rows, factor) in [(of_v, dropped, grad), (of_k, of_scores, q)] {
                    for Block { row, mut out, .. } in of_part.blocks((at_once, head_dim)) {
                        // Queries before the block's first key do not see it.
                        let (first, keys) = (row.min(queries), at_once.min(tokens - row));
                        let first = if causal { first } else { 0 };
                        let count = queries - first;
                        let seeing = rows.rows(first, count).columns(row, keys).transposed();
                        multiply(seeing, factor.rows(first, count), &mut out);
                    }
                }
            },
        );
    }
}

/// The queries of the block at `row`, and the keys they see. A block of all queries sees all keys.
fn seen_by(row: usize, at_once: usize, queries: usize, tokens: usize) -> (usize, usize) {
    (at_once.min(queries - row), tokens.min(row + at_once))
}

/// A block of queries of one head.
struct Piece<'a> {
    index: usize,
    shape: SampleShape,
    sample: Sample<'a>,
    head: usize,
    block: Block<'a>,
    /// Where their weights are saved for the backward pass, if tracked.
    saved: Option<&'a mut [f32]>,
}

/// A head's queries (queries, head_dim), keys and values (tokens, head_dim).
fn matrices(shape: SampleShape, head: usize, sample: Sample<'_>) -> [Matrix<'_>; 3] {
    let matrix = |part, rows| {
        let of_head = sample.rows(shape, part, head);
        Matrix::strided(of_head.data, rows, shape.head_dim, of_head.stride)
    };
    let SampleShape { tokens, queries, .. } = shape;
    [matrix(Part::Queries, queries), matrix(Part::Keys, tokens), matrix(Part::Values, tokens)]
}

/// Draws the dropout masks of a batch's weights, (queries, heads, padded) per sample.
fn draw(samples: &Samples, dropout: DropoutSource) -> Buffer {
    let mut values = Buffer::dirty(samples.total(|shape| shape.masks(samples.padded)));
    let parts = samples.cut(&mut values, |shape| shape.masks(samples.padded));
    parallel::for_each(
        DRAW_COST * parts.iter().map(|part| part.len()).sum::<usize>(),
        parts.into_iter().enumerate(),
        |(sample, values)| dropout.fill(sample, values),
    );
    values
}

/// Drawn masks, row by row.
struct DrawnMasks<'a> {
    padded: usize,
    samples: Vec<&'a [f32]>,
}

impl<'a> DrawnMasks<'a> {
    fn of(samples: &Samples, drawn: &'a [f32]) -> Self {
        let padded = samples.padded;
        Self { padded, samples: samples.parts(drawn, |shape| shape.masks(padded)) }
    }

    /// Applies the masks to a head's weights, from the row of `query` on, into `scratch`.
    fn drop<'r>(
        &self,
        (sample, shape): (usize, SampleShape),
        head: usize,
        query: usize,
        weights: &[f32],
        scratch: &'r mut [f32],
    ) -> &'r [f32] {
        let scratch = &mut scratch[..weights.len()];
        scratch.copy_from_slice(weights);
        let rows = self.samples[sample].chunks_exact(self.padded).skip(query * shape.heads + head);
        simd::dispatch(
            #[inline(always)]
            || {
                let rows = rows.step_by(shape.heads);
                for (weights, mask) in scratch.chunks_exact_mut(shape.weights_row()).zip(rows) {
                    slices::multiply(weights, mask);
                }
            },
        );
        scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::op::{Attention, Form};
    use crate::attention::tests::{bias, for_queries, mask, variants};
    use crate::attention::{Attend, AttentionShape, Queries, composed};
    use crate::many;
    use crate::parallel::tests::assert_threads_do_not_show;
    use crate::testing::{Case, tensors};
    use candle_core::{Result, Tensor, Var};

    fn large(qkv: &Tensor, queries: Queries, attend: &Attend) -> Result<Tensor> {
        let shape = AttentionShape::packed(qkv, queries, attend)?;
        let form = Form::large(shape.samples(), attend, qkv.track_op());
        let op = Attention::new(form, shape.output(), attend.bias_shape(shape)?);
        let qkv = qkv.contiguous()?;
        match attend.bias {
            Some(bias) => many::apply(&qkv, [bias], op),
            None => qkv.apply_op1(op),
        }
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (batch, tokens, heads, head_dim) in [
            (1, 1, 1, 1),
            (2, 5, 3, 7),
            (2, 16, 2, 16),
            (1, 67, 1, 130),
            (1, 70, 1, 32),
            (2, QUERIES + 3, 2, 12),
        ] {
            let case = Case::new(&[&[batch, tokens, 3 * heads * head_dim]])?;
            let (mask, bias) = (mask(batch, tokens)?, bias(heads, tokens)?);
            let of_first = bias.narrow(2, 0, 1)?.contiguous()?;
            for attend in variants(heads, &mask, &bias) {
                for queries in [Queries::All, Queries::First] {
                    let attend = for_queries(queries, attend, &of_first);
                    case.fused_equals_composed(
                        |t| large(&t[0], queries, &attend),
                        |t| composed::self_attention(&t[0], queries, &attend),
                    )?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn transposed_input_gives_the_same_result() -> Result<()> {
        let attend = Attend::new(2, 0.35);
        Case::new(&[&[5, 2, 24]])?.fused_equals_composed(
            |t| large(&t[0].transpose(0, 1)?, Queries::All, &attend),
            |t| composed::self_attention(&t[0].transpose(0, 1)?, Queries::All, &attend),
        )
    }

    #[test]
    fn untracked_input_gives_the_same_output() -> Result<()> {
        let [qkv] = tensors(&[&[2, QUERIES + 9, 48]])?;
        let tracked = Var::from_tensor(&qkv)?;
        let (mask, bias) = (mask(2, QUERIES + 9)?, bias(2, QUERIES + 9)?);
        for attend in variants(2, &mask, &bias) {
            let [got, want] = [&qkv, tracked.as_tensor()]
                .map(|qkv| large(qkv, Queries::All, &attend)?.to_vec3::<f32>());
            assert_eq!(got?, want?);
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let [qkv] = tensors(&[&[2, 197, 3 * 3 * 24]])?;
        let (mask, bias) = (mask(2, 197)?, bias(3, 197)?);
        for attend in variants(3, &mask, &bias) {
            assert_threads_do_not_show(|| {
                let var = Var::from_tensor(&qkv).expect("a variable");
                let ys = large(&var, Queries::All, &attend).expect("an output");
                let grads = ys.sqr().and_then(|ys| ys.backward()).expect("gradients");
                let grad = grads.get(&var).expect("a gradient").to_vec3::<f32>();
                (ys.to_vec3::<f32>().expect("a tensor"), grad.expect("a tensor"))
            });
        }
        Ok(())
    }
}
