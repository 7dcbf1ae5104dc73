//! Attention of many tokens: each head's products through `gemm`, on the packed rows as they lie.

use std::sync::OnceLock;

use super::inputs::{Gradients, Inputs, Part, Sample};
use super::kernel::WIDEST_HEAD;
use super::op::Form;
use super::sample::SampleShape;
use super::softmax::{GradScores, Softmax};
use super::{Attend, AttentionDropout, AttentionShape, TokenMask};
use crate::dropout::Masks;
use crate::matmul::{Matrix, MatrixMut, Store, multiply};
use crate::{parallel, simd, slices};

/// Whether it is the form to take: that of [`kernel`](super::kernel) has no wider heads, and wins where tokens are few
/// or heads narrow, up to twice. Where tokens are many both are equal, but only this one splits a sample over threads.
pub(super) fn suits(shape: SampleShape) -> bool {
    let SampleShape { tokens, head_dim, .. } = shape;
    tokens >= 128 || head_dim > WIDEST_HEAD || (tokens >= 32 && head_dim >= 32)
}

/// Queries whose scores are computed at once: these stay in the cache, and one image has pieces for several threads.
const QUERIES: usize = 128;

/// What a random number costs, in the same.
const DRAW_COST: usize = 16;

/// The form for any number of tokens and width of heads.
pub(super) struct LargeAttention {
    shape: AttentionShape,
    scale: f32,
    mask: Option<TokenMask>,
    dropout: Option<AttentionDropout>,
    /// Whether there will be a backward pass.
    tracked: bool,
    kept: OnceLock<Kept>,
}

/// What the backward pass needs: the weights before dropout (batch, heads, queries, `weights_row`), and the masks.
struct Kept {
    weights: Vec<f32>,
    masks: Option<BatchMasks>,
}

impl LargeAttention {
    pub(super) fn new(shape: AttentionShape, attend: &Attend, tracked: bool) -> Self {
        Self {
            shape,
            scale: attend.scale as f32,
            mask: attend.mask.cloned(),
            dropout: attend.dropout,
            tracked,
            kept: OnceLock::new(),
        }
    }

    fn weigh(&self, inputs: Inputs) -> (Vec<f32>, Kept) {
        let AttentionShape { batch, sample: shape } = self.shape;
        let SampleShape { tokens, queries, head_dim, .. } = shape;
        let row_len = shape.weights_row();
        let block_len = QUERIES.min(queries) * row_len;
        let masks = self.dropout.map(|dropout| BatchMasks::draw(batch, shape, dropout));
        let mut ys = vec![0.0; batch * shape.output()];
        let mut weights = vec![0.0; if self.tracked { batch * shape.weights() } else { 0 }];
        let heads = weights.chunks_exact_mut(shape.head_weights());
        let mut kept = heads.flat_map(|head| head.chunks_mut(block_len));
        let samples: Vec<Sample> = (0..batch).map(|index| inputs.sample(shape, index)).collect();
        let mut pieces = Vec::new();
        for (sample, ys) in ys.chunks_exact_mut(shape.output()).enumerate() {
            let ys = MatrixMut::strided(ys, queries, shape.dim(), shape.dim());
            for (head, ys) in ys.blocks((queries, head_dim)).into_iter().enumerate() {
                for block in ys.out.blocks((QUERIES, head_dim)) {
                    pieces.push((sample, head, block, kept.next()));
                }
            }
        }
        let scores_len = if self.tracked { 0 } else { block_len };
        let dropped_len = if masks.is_some() { block_len } else { 0 };
        parallel::for_each_with(
            self.shape.multiply_adds(2),
            pieces,
            || (vec![0.0; scores_len], vec![0.0; dropped_len]),
            |(scores, dropped), (sample, head, mut block, kept)| {
                let [q, k, v] = matrices(shape, head, samples[sample]);
                let (query, rows) = (block.row, QUERIES.min(queries - block.row));
                let weights = kept.unwrap_or_else(|| &mut scores[..rows * row_len]);
                let mut scores = MatrixMut::strided(weights, rows, tokens, row_len);
                multiply(q.rows(query, rows), k.transposed(), &mut scores, Store::Overwrite);
                let mask = self.mask.as_ref().map(|mask| mask.row(sample));
                simd::run(Softmax { tokens, scale: self.scale, mask, scores: weights });
                let weights = match &masks {
                    Some(masks) => masks.drop(sample, head, query, weights, dropped),
                    None => weights,
                };
                let weights = Matrix::strided(weights, rows, tokens, row_len);
                multiply(weights, v, &mut block.out, Store::Overwrite);
            },
        );
        (ys, Kept { weights, masks })
    }
}

impl Form for LargeAttention {
    fn shape(&self) -> AttentionShape {
        self.shape
    }

    fn forward(&self, inputs: Inputs) -> Vec<f32> {
        let (ys, kept) = self.weigh(inputs);
        if self.tracked {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.kept.set(kept);
        }
        ys
    }

    /// With dropped weights `W` and output gradient `G`: `dV = Wᵀ G`, `dW = G Vᵀ`, `dS` as [`GradScores`] has it,
    /// `dQ = dS K`, `dK = dSᵀ Q`.
    fn backward(&self, inputs: Inputs, grad: &[f32]) -> Gradients {
        let kept = self.kept.get().expect("the forward pass ran before the backward pass");
        let shape = self.shape.sample;
        let SampleShape { tokens, queries, heads, head_dim } = shape;
        let (dim, row_len, len) = (shape.dim(), shape.weights_row(), shape.head_weights());
        let mut all = Gradients::of(inputs);
        let mut pieces = Vec::new();
        for (index, gradients) in all.samples(shape).into_iter().enumerate() {
            let sample = inputs.sample(shape, index);
            let [q, k, v] = gradients.matrices(shape);
            let q = q.blocks((queries, head_dim));
            let [k, v] = [k, v].map(|part| part.blocks((tokens, head_dim)));
            for (head, ((q, k), v)) in q.into_iter().zip(k).zip(v).enumerate() {
                pieces.push((index, sample, head, [q.out, k.out, v.out]));
            }
        }
        let dropped_len = if kept.masks.is_some() { len } else { 0 };
        parallel::for_each_with(
            self.shape.multiply_adds(5),
            pieces,
            || (vec![0.0; len], vec![0.0; dropped_len]),
            |(grads, dropped), (index, sample, head, [mut grad_q, mut grad_k, mut grad_v])| {
                let [q, k, v] = matrices(shape, head, sample);
                let grad = &grad[index * shape.output() + head * head_dim..];
                let grad = Matrix::strided(grad, queries, head_dim, dim);
                let weights = &kept.weights[(index * heads + head) * len..][..len];
                let mut of_weights = MatrixMut::strided(grads, queries, tokens, row_len);
                multiply(grad, v.transposed(), &mut of_weights, Store::Overwrite);
                let after = match &kept.masks {
                    Some(masks) => masks.drop(index, head, 0, weights, dropped),
                    None => weights,
                };
                let dropped = Matrix::strided(after, queries, tokens, row_len);
                multiply(dropped.transposed(), grad, &mut grad_v, Store::Overwrite);
                simd::run(GradScores {
                    tokens,
                    scale: self.scale,
                    before_dropout: weights,
                    after_dropout: after,
                    grad: grads,
                });
                let of_scores = Matrix::strided(grads, queries, tokens, row_len);
                multiply(of_scores, k, &mut grad_q, Store::Overwrite);
                multiply(of_scores.transposed(), q, &mut grad_k, Store::Overwrite);
            },
        );
        all
    }
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

/// The masks of a batch's weights (batch, queries, heads, tokens), in the order in which they are drawn.
struct BatchMasks {
    shape: SampleShape,
    values: Vec<f32>,
}

impl BatchMasks {
    fn draw(batch: usize, shape: SampleShape, dropout: AttentionDropout) -> Self {
        let AttentionDropout { rate, site, random } = dropout;
        let len = shape.queries * shape.heads * shape.tokens;
        let mut values = vec![0.0; batch * len];
        parallel::for_each_with(
            DRAW_COST * values.len(),
            values.chunks_exact_mut(len).enumerate(),
            || Masks::new(rate, site, random, len),
            |masks, (sample, values)| masks.fill(sample, values),
        );
        Self { shape, values }
    }

    /// The mask of one row of weights.
    fn row(&self, sample: usize, query: usize, head: usize) -> &[f32] {
        let SampleShape { tokens, queries, heads, .. } = self.shape;
        &self.values[((sample * queries + query) * heads + head) * tokens..][..tokens]
    }

    /// What the masks leave of a head's weights, from the row of `query` on, in `room`.
    fn drop<'a>(
        &self,
        sample: usize,
        head: usize,
        query: usize,
        weights: &[f32],
        room: &'a mut [f32],
    ) -> &'a [f32] {
        let room = &mut room[..weights.len()];
        room.copy_from_slice(weights);
        simd::dispatch(
            #[inline(always)]
            || {
                for (row, query) in room.chunks_exact_mut(self.shape.weights_row()).zip(query..) {
                    slices::multiply(row, self.row(sample, query, head));
                }
            },
        );
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::op::Attention;
    use crate::attention::tests::{mask, ways};
    use crate::attention::{Queries, composed};
    use crate::parallel::tests::assert_threads_do_not_show;
    use crate::testing::{Case, tensors};
    use candle_core::{Result, Tensor, Var};

    fn large(qkv: &Tensor, queries: Queries, attend: &Attend) -> Result<Tensor> {
        let shape = AttentionShape::packed(qkv, queries, attend)?;
        qkv.contiguous()?.apply_op1(Attention(LargeAttention::new(shape, attend, qkv.track_op())))
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (batch, tokens, heads, head_dim) in
            [(1, 1, 1, 1), (2, 5, 3, 7), (2, 16, 2, 16), (1, 67, 1, 130), (2, QUERIES + 3, 2, 12)]
        {
            let case = Case::new(&[&[batch, tokens, 3 * heads * head_dim]])?;
            let mask = mask(batch, tokens)?;
            for attend in ways(heads, &mask) {
                for queries in [Queries::All, Queries::First] {
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
    fn a_transposed_input_is_read_right() -> Result<()> {
        let attend = Attend::new(2, 0.35);
        Case::new(&[&[5, 2, 24]])?.fused_equals_composed(
            |t| large(&t[0].transpose(0, 1)?, Queries::All, &attend),
            |t| composed::self_attention(&t[0].transpose(0, 1)?, Queries::All, &attend),
        )
    }

    #[test]
    fn nothing_changes_where_no_gradient_is_asked_for() -> Result<()> {
        let [qkv] = tensors(&[&[2, QUERIES + 9, 48]])?;
        let tracked = Var::from_tensor(&qkv)?;
        let mask = mask(2, QUERIES + 9)?;
        for attend in ways(2, &mask) {
            let [got, want] = [&qkv, tracked.as_tensor()]
                .map(|qkv| large(qkv, Queries::All, &attend)?.to_vec3::<f32>());
            assert_eq!(got?, want?);
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let [qkv] = tensors(&[&[2, 197, 3 * 3 * 24]])?;
        let mask = mask(2, 197)?;
        for attend in ways(3, &mask) {
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
