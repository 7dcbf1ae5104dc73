//! Multi-head self-attention and cross-attention (Vaswani et al., arXiv 1706.03762, eq. 1).

pub(crate) mod bias;
pub(crate) mod composed;
pub(crate) mod inputs;
mod kernel;
mod large;
pub(crate) mod op;
pub(crate) mod sample;
mod small;
mod softmax;
#[cfg(test)]
mod tests;

use self::op::{Attention, BiasShape, Form};
use self::sample::{SampleShape, Samples};
use crate::dropout::DropoutSource;
use crate::{TokenMask, many, slices};
use candle_core::{Result, Tensor, bail};

/// The tokens whose rows are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// All tokens.
    All,
    /// The first token, which is all that a classifier reads from the last block.
    First,
}

/// How queries attend to keys: `softmax(scale Q Kᵀ + bias)` over all keys but padding and, in a causal sequence, keys
/// after the query. A query that sees no key gets zero weights.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// The number of heads. Each has a contiguous part of the queries, keys and values.
    pub heads: usize,
    /// The factor of the scores `Q Kᵀ`.
    pub scale: f64,
    /// The padding mask of the keys; `None` without padding.
    pub mask: Option<&'a TokenMask>,
    /// Whether query `i` attends only to keys up to `i`. PyTorch equivalent: `is_causal=True`.
    pub causal: bool,
    /// Added to the scaled scores, (batch or 1, heads or 1, queries, tokens), in the inputs' dtype. A learned bias gets
    /// its gradient. PyTorch equivalent: a float `attn_mask`.
    pub bias: Option<&'a Tensor>,
    /// Dropout of the weights in training. A sample's mask is drawn in the order (queries, heads, keys), so the first
    /// token's is the same for both [`Queries`].
    pub dropout: Option<DropoutSource>,
}

impl Attend<'_> {
    /// Attention to all keys, without bias or dropout.
    #[must_use]
    pub const fn new(heads: usize, scale: f64) -> Self {
        Self { heads, scale, mask: None, causal: false, bias: None, dropout: None }
    }
}

/// Self-attention: `softmax(scale Q Kᵀ) V` for each head, with the heads joined. Padding has no weight, and dropout
/// acts on the weights.
///
/// PyTorch equivalent: `torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p=rate,
/// scale=scale)` on the three thirds of `qkv`, each split into heads; for the first token, `q[..., :1, :]`.
///
/// # Shapes
/// `qkv` (batch, tokens, 3 * heads * head_dim): queries, keys, values, each head's part contiguous ->
/// (batch, tokens, heads * head_dim), or (batch, 1, heads * head_dim) for the first token
///
/// # Errors
/// If the last dimension is not three times a multiple of the heads, or the mask or the bias has another shape.
pub fn self_attention(qkv: &Tensor, queries: Queries, attend: &Attend) -> Result<Tensor> {
    let attend = &attend.simplified();
    let shape = AttentionShape::packed(qkv, queries, attend)?;
    if qkv.elem_count() == 0 {
        // Without tokens the output is empty.
        return qkv.narrow(1, 0, shape.sample.queries)?.narrow(2, 0, shape.sample.dim());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(qkv) && !attend.by_query() && crate::cuda::suits(shape, qkv)? {
        return crate::cuda::attention(crate::cuda::AttentionInputs::Packed(qkv), shape, attend);
    }
    if !slices::fused(qkv) {
        return composed::self_attention(qkv, queries, attend);
    }
    let op = |tracked, bias| {
        Attention::new(Form::of(shape.samples(), attend, tracked), shape.output(), bias)
    };
    let qkv = qkv.contiguous()?;
    match attend.bias {
        Some(bias) => {
            let tracked = qkv.track_op() || bias.track_op();
            many::apply(&qkv, [bias], op(tracked, attend.bias_shape(shape)?))
        }
        None => qkv.apply_op1(op(qkv.track_op(), None)),
    }
}

/// Cross-attention: like [`self_attention`], with queries from one sequence and keys and values from another, whose
/// padding the mask marks.
///
/// # Shapes
/// `q` (batch, queries, heads * head_dim), `kv` (batch, tokens, 2 * heads * head_dim): keys, values, each head's part
/// contiguous -> (batch, queries, heads * head_dim)
///
/// # Errors
/// If the shapes do not match, there are no keys, or the mask or the bias has another shape.
pub fn cross_attention(q: &Tensor, kv: &Tensor, attend: &Attend) -> Result<Tensor> {
    let attend = &attend.simplified();
    let shape = AttentionShape::apart(q, (kv, 2), attend)?;
    if q.elem_count() == 0 {
        return Ok(q.clone());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(q) && !attend.by_query() && crate::cuda::suits(shape, q)? {
        return crate::cuda::attention(crate::cuda::AttentionInputs::Apart(q, kv), shape, attend);
    }
    if !slices::fused(q) {
        return composed::cross_attention(q, kv, attend);
    }
    let op = |tracked, bias| {
        Attention::new(Form::of(shape.samples(), attend, tracked), shape.output(), bias)
    };
    let tracked = q.track_op() || kv.track_op();
    let (q, kv) = (q.contiguous()?, kv.contiguous()?);
    match attend.bias {
        Some(bias) => {
            let tracked = tracked || bias.track_op();
            many::apply(&q, [&kv, bias], op(tracked, attend.bias_shape(shape)?))
        }
        None => q.apply_op2(&kv, op(tracked, None)),
    }
}

/// The attention weights `softmax(scale Q Kᵀ)` of each head, before dropout, for inspection.
///
/// # Shapes
/// `q` (batch, queries, heads * head_dim), `k` (batch, tokens, heads * head_dim) -> (batch, heads, queries, tokens)
///
/// # Errors
/// If the shapes do not match, there are no keys, or the mask or the bias has another shape.
pub fn attention_weights(q: &Tensor, k: &Tensor, attend: &Attend) -> Result<Tensor> {
    AttentionShape::apart(q, (k, 1), attend)?;
    composed::attention_weights(q, k, attend)
}

impl Attend<'_> {
    /// Removes a dropout of rate zero.
    pub(crate) fn simplified(self) -> Self {
        Self { dropout: self.dropout.filter(|dropout| !dropout.rate.is_zero()), ..self }
    }

    /// Whether the numbers added to the scores differ between queries.
    pub(crate) fn by_query(&self) -> bool {
        self.causal || self.bias.is_some()
    }

    /// The checked dimensions of the bias.
    pub(crate) fn bias_shape(&self, shape: AttentionShape) -> Result<Option<BiasShape>> {
        let Some(bias) = self.bias else { return Ok(None) };
        let AttentionShape { batch, sample: SampleShape { tokens, queries, heads, .. } } = shape;
        match *bias.dims() {
            [b, h, q, k]
                if [1, batch].contains(&b)
                    && [1, heads].contains(&h)
                    && (q, k) == (queries, tokens) =>
            {
                Ok(Some([b, h, q, k]))
            }
            ref dims => bail!(
                "attention: expected a bias of shape (1 or {batch}, 1 or {heads}, {queries}, {tokens}), got {dims:?}"
            ),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) batch: usize,
    pub(crate) sample: SampleShape,
}

impl AttentionShape {
    fn packed(qkv: &Tensor, queries: Queries, attend: &Attend) -> Result<Self> {
        let (batch, tokens, width) = qkv.dims3()?;
        let heads = attend.heads;
        if heads == 0 || !width.is_multiple_of(3 * heads) {
            bail!(
                "self-attention: expected qkv of shape (batch, tokens, 3 * heads * head_dim) with {heads} heads, got {:?}",
                qkv.dims()
            );
        }
        let queries = match queries {
            Queries::All => tokens,
            Queries::First => tokens.min(1),
        };
        let sample = SampleShape { tokens, queries, heads, head_dim: width / (3 * heads) };
        Self { batch, sample }.with_checked_masks(attend)
    }

    /// The shape for queries and `kv`, which has `vectors` vectors per token.
    fn apart(q: &Tensor, (kv, vectors): (&Tensor, usize), attend: &Attend) -> Result<Self> {
        let ((batch, queries, dim), heads) = (q.dims3()?, attend.heads);
        let (of_kv, tokens, width) = kv.dims3()?;
        let widths_fit = heads > 0 && dim.is_multiple_of(heads) && width == vectors * dim;
        if !widths_fit || of_kv != batch || tokens == 0 {
            bail!(
                "attention: expected q of shape (batch, queries, {heads} * head_dim) and kv of shape \
                 (batch, tokens, {vectors} * {heads} * head_dim) with at least one token, got {:?} and {:?}",
                q.dims(),
                kv.dims()
            );
        }
        let sample = SampleShape { tokens, queries, heads, head_dim: dim / heads };
        Self { batch, sample }.with_checked_masks(attend)
    }

    pub(crate) fn samples(self) -> Samples {
        Samples::equal(self.batch, self.sample)
    }

    fn output(self) -> (usize, usize, usize) {
        (self.batch, self.sample.queries, self.sample.dim())
    }

    fn with_checked_masks(self, attend: &Attend) -> Result<Self> {
        let (batch, tokens) = (self.batch, self.sample.tokens);
        attend.bias_shape(self)?;
        match attend.mask {
            Some(mask) if (mask.batch(), mask.tokens()) != (batch, tokens) => bail!(
                "attention: expected a mask of shape ({batch}, {tokens}), got ({}, {})",
                mask.batch(),
                mask.tokens()
            ),
            _ => Ok(self),
        }
    }
}
