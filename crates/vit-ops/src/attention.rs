//! Multi-head self-attention on packed queries, keys and values (Vaswani et al., arXiv 1706.03762, eq. 1).

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use vit_random::{Random, Site};

use crate::dropout::{DropRate, fill_mask};
use crate::slices::{self, add_scaled};
use crate::softmax::softmax_in_place;

/// Dropout of attention weights: the mask of a sample is drawn in the order (heads, queries, keys).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDropout {
    /// The probability that a weight is dropped.
    pub rate: DropRate,
    /// Where the masks are drawn.
    pub site: Site,
    /// The source of the masks.
    pub random: Random,
}

/// `softmax(scale Q Kᵀ) V` for each head, the heads joined again; `dropout` acts on the weights.
///
/// PyTorch equivalent: `torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, scale=scale)`
/// on the three thirds of `qkv`, each split into heads.
///
/// # Shapes
/// `qkv` (batch, tokens, 3 * heads * head_dim): queries, then keys, then values, each head's part
/// contiguous -> (batch, tokens, heads * head_dim)
///
/// # Errors
/// If the last dimension is not three times a multiple of `heads`.
pub fn self_attention(
    qkv: &Tensor,
    heads: usize,
    scale: f64,
    dropout: Option<AttentionDropout>,
) -> Result<Tensor> {
    let dropout = dropout.filter(|dropout| !dropout.rate.is_zero());
    let shape = AttentionShape::of(qkv, heads)?;
    if !slices::fused(qkv) {
        return composed::self_attention(qkv, heads, scale, dropout);
    }
    let op = SelfAttention { shape, scale: scale as f32, dropout, weights: OnceLock::new() };
    qkv.contiguous()?.apply_op1(op)
}

pub(crate) mod composed {
    use super::{AttentionDropout, AttentionShape, Result, Tensor};
    use crate::composed::{dropout as drop, softmax};

    /// [`self_attention`](crate::self_attention()) out of candle's tensor operations.
    ///
    /// # Errors
    /// If the last dimension is not three times a multiple of `heads`.
    pub fn self_attention(
        qkv: &Tensor,
        heads: usize,
        scale: f64,
        dropout: Option<AttentionDropout>,
    ) -> Result<Tensor> {
        let AttentionShape { batch, tokens, head_dim, .. } = AttentionShape::of(qkv, heads)?;
        let qkv = qkv.reshape((batch, tokens, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
        let part = |index: usize| qkv.get(index)?.contiguous(); // (batch, heads, tokens, head_dim)
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? * scale)?; // (batch, heads, tokens, tokens)
        let weights = softmax(&scores)?;
        let weights = match dropout {
            Some(dropout) => drop(&weights, dropout.rate, dropout.site, &dropout.random)?,
            None => weights,
        };
        let ys = weights.matmul(&v)?; // (batch, heads, tokens, head_dim)
        ys.transpose(1, 2)?.reshape((batch, tokens, heads * head_dim))
    }
}

#[derive(Clone, Copy, Debug)]
struct AttentionShape {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl AttentionShape {
    fn of(qkv: &Tensor, heads: usize) -> Result<Self> {
        let (batch, tokens, width) = qkv.dims3()?;
        if heads == 0 || !width.is_multiple_of(3 * heads) {
            bail!(
                "self-attention: expected qkv of shape (batch, tokens, 3 * heads * head_dim) with {heads} heads, got {:?}",
                qkv.dims()
            );
        }
        Ok(Self { batch, tokens, heads, head_dim: width / (3 * heads) })
    }

    fn dim(self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of one sample's attention weights.
    fn weights(self) -> usize {
        self.heads * self.tokens * self.tokens
    }
}

/// What the backward pass needs: the attention weights (batch, heads, tokens, tokens), and what dropout left
/// of them.
struct Weights {
    before_dropout: Vec<f32>,
    after_dropout: Option<Vec<f32>>,
}

struct SelfAttention {
    shape: AttentionShape,
    scale: f32,
    dropout: Option<AttentionDropout>,
    weights: OnceLock<Weights>,
}

/// The rows of one head in one third (0 queries, 1 keys, 2 values) of a sample's packed rows.
#[derive(Clone, Copy)]
struct HeadRows {
    start: usize,
    stride: usize,
    len: usize,
}

impl HeadRows {
    fn new(shape: AttentionShape, third: usize, head: usize) -> Self {
        Self {
            start: third * shape.dim() + head * shape.head_dim,
            stride: 3 * shape.dim(),
            len: shape.head_dim,
        }
    }

    fn of<'a>(&self, sample: &'a [f32], token: usize) -> &'a [f32] {
        &sample[self.start + token * self.stride..][..self.len]
    }

    fn of_mut<'a>(&self, sample: &'a mut [f32], token: usize) -> &'a mut [f32] {
        &mut sample[self.start + token * self.stride..][..self.len]
    }

    /// Column `tokens`-contiguous copy: element (d, token) at `d * tokens + token`.
    fn transpose_into(&self, sample: &[f32], tokens: usize, out: &mut [f32]) {
        for token in 0..tokens {
            for (d, &x) in self.of(sample, token).iter().enumerate() {
                out[d * tokens + token] = x;
            }
        }
    }
}

/// `out_j = scale sum_d x_d columns_dj`: one row times a transposed matrix.
fn row_times_columns(x: &[f32], scale: f32, columns: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (&x, column) in x.iter().zip(columns.chunks_exact(out.len())) {
        add_scaled(out, scale * x, column);
    }
}

impl SelfAttention {
    /// The weights of one sample, and its output.
    fn forward_sample(&self, qkv: &[f32], weights: &mut [f32]) {
        let AttentionShape { tokens, heads, head_dim, .. } = self.shape;
        let mut keys = vec![0.0; head_dim * tokens];
        for (head, weights) in (0..heads).zip(weights.chunks_exact_mut(tokens * tokens)) {
            HeadRows::new(self.shape, 1, head).transpose_into(qkv, tokens, &mut keys);
            let queries = HeadRows::new(self.shape, 0, head);
            for (query, row) in weights.chunks_exact_mut(tokens).enumerate() {
                row_times_columns(queries.of(qkv, query), self.scale, &keys, row);
                softmax_in_place(row);
            }
        }
    }

    /// `y_i = sum_j w_ij v_j` for each head of one sample.
    fn weigh_values(&self, qkv: &[f32], weights: &[f32], ys: &mut [f32]) {
        let AttentionShape { tokens, heads, head_dim, .. } = self.shape;
        for (head, weights) in (0..heads).zip(weights.chunks_exact(tokens * tokens)) {
            let values = HeadRows::new(self.shape, 2, head);
            for (query, row) in weights.chunks_exact(tokens).enumerate() {
                let y = &mut ys[query * self.shape.dim() + head * head_dim..][..head_dim];
                for (key, &weight) in row.iter().enumerate() {
                    add_scaled(y, weight, values.of(qkv, key));
                }
            }
        }
    }

    /// With weights `P`, dropped weights `W` (which are `P` times the mask) and output gradient `G`:
    /// `dV = Wᵀ G`, `dW = G Vᵀ`, `dS = W ∘ dW - P rowsum(W ∘ dW)`, `dQ = scale dS K`, `dK = scale dSᵀ Q`.
    fn backward_sample(
        &self,
        qkv: &[f32],
        before: &[f32],
        after: &[f32],
        grad: &[f32],
        grad_qkv: &mut [f32],
    ) {
        let AttentionShape { tokens, heads, head_dim, .. } = self.shape;
        let mut values = vec![0.0; head_dim * tokens];
        let mut row = vec![0.0; tokens];
        for head in 0..heads {
            let [q, k, v] = [0, 1, 2].map(|third| HeadRows::new(self.shape, third, head));
            v.transpose_into(qkv, tokens, &mut values);
            for query in 0..tokens {
                let at = (head * tokens + query) * tokens;
                let (before, after) = (&before[at..][..tokens], &after[at..][..tokens]);
                let grad = &grad[query * self.shape.dim() + head * head_dim..][..head_dim];
                row_times_columns(grad, 1.0, &values, &mut row);
                for (grad_weight, &weight) in row.iter_mut().zip(after) {
                    *grad_weight *= weight;
                }
                let total = slices::sum(&row);
                for (key, (&weighted, &probability)) in row.iter().zip(before).enumerate() {
                    let grad_score = self.scale * (weighted - probability * total);
                    add_scaled(v.of_mut(grad_qkv, key), after[key], grad);
                    add_scaled(q.of_mut(grad_qkv, query), grad_score, k.of(qkv, key));
                    add_scaled(k.of_mut(grad_qkv, key), grad_score, q.of(qkv, query));
                }
            }
        }
    }
}

impl CustomOp1 for SelfAttention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = slices::of_storage(qkv, layout)?;
        let AttentionShape { batch, tokens, .. } = self.shape;
        let (dim, sample_weights) = (self.shape.dim(), self.shape.weights());
        let mut before_dropout = vec![0.0; batch * sample_weights];
        for (qkv, weights) in
            qkv.chunks_exact(tokens * 3 * dim).zip(before_dropout.chunks_exact_mut(sample_weights))
        {
            self.forward_sample(qkv, weights);
        }
        let after_dropout = self.dropout.map(|AttentionDropout { rate, site, random }| {
            let mut weights = vec![0.0; before_dropout.len()];
            fill_mask(&mut weights, sample_weights, rate, site, &random);
            for (weight, &before) in weights.iter_mut().zip(&before_dropout) {
                *weight *= before;
            }
            weights
        });
        let weights = Weights { before_dropout, after_dropout };
        let mut ys = vec![0.0; batch * tokens * dim];
        for ((qkv, weights), ys) in qkv
            .chunks_exact(tokens * 3 * dim)
            .zip(weights.after().chunks_exact(sample_weights))
            .zip(ys.chunks_exact_mut(tokens * dim))
        {
            self.weigh_values(qkv, weights, ys);
        }
        // An operation runs forward once; its value lives in the graph until the backward pass.
        let _ = self.weights.set(weights);
        slices::output(ys, (batch, tokens, dim))
    }

    fn bwd(&self, qkv: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let AttentionShape { tokens, .. } = self.shape;
        let (dim, sample_weights) = (self.shape.dim(), self.shape.weights());
        let weights = self.weights.get().expect("the forward pass ran before the backward pass");
        let grad = grad.contiguous()?;
        let mut grad_qkv = vec![0.0; qkv.elem_count()];
        slices::read(&grad, |grad| {
            slices::read(qkv, |qkv| {
                for ((((qkv, before), after), grad), grad_qkv) in qkv
                    .chunks_exact(tokens * 3 * dim)
                    .zip(weights.before_dropout.chunks_exact(sample_weights))
                    .zip(weights.after().chunks_exact(sample_weights))
                    .zip(grad.chunks_exact(tokens * dim))
                    .zip(grad_qkv.chunks_exact_mut(tokens * 3 * dim))
                {
                    self.backward_sample(qkv, before, after, grad, grad_qkv);
                }
                Ok(())
            })
        })?;
        slices::gradient(grad_qkv, qkv)
    }
}

impl Weights {
    fn after(&self) -> &[f32] {
        self.after_dropout.as_ref().unwrap_or(&self.before_dropout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    fn dropout() -> AttentionDropout {
        AttentionDropout {
            rate: DropRate::new(0.3).expect("a rate in [0, 1)"),
            site: Site::named("test"),
            random: Random::new(4).at_step(1),
        }
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (batch, tokens, heads, head_dim) in
            [(1, 1, 1, 1), (2, 5, 3, 7), (3, 16, 4, 8), (1, 17, 2, 64)]
        {
            let case = Case::new(&[&[batch, tokens, 3 * heads * head_dim]])?;
            for dropout in [None, Some(dropout())] {
                case.fused_equals_composed(
                    |t| self_attention(&t[0], heads, 0.35, dropout),
                    |t| composed::self_attention(&t[0], heads, 0.35, dropout),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_those_of_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3, 12]])?
            .gradients_match_differences(|t| composed::self_attention(&t[0], 2, 0.7, None))
    }

    #[test]
    fn permuting_tokens_permutes_outputs() -> Result<()> {
        let [qkv] = tensors(&[&[1, 4, 24]])?;
        let order = Tensor::new(&[2_u32, 0, 3, 1], qkv.device())?;
        let permuted = self_attention(&qkv.index_select(&order, 1)?, 2, 0.5, None)?;
        let want = self_attention(&qkv, 2, 0.5, None)?.index_select(&order, 1)?;
        let difference = (permuted - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(difference < 1e-6, "{difference}");
        Ok(())
    }

    #[test]
    fn a_width_that_is_no_multiple_is_named() -> Result<()> {
        let [qkv] = tensors(&[&[1, 4, 20]])?;
        let error = self_attention(&qkv, 2, 0.5, None).unwrap_err().to_string();
        assert!(error.contains("with 2 heads, got [1, 4, 20]"), "{error}");
        Ok(())
    }
}
