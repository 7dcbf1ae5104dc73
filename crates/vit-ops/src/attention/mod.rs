//! Multi-head attention (Vaswani et al., arXiv 1706.03762, eq. 1): of a sequence to itself, and to another.

pub(crate) mod composed;
mod inputs;
mod kernel;
mod large;
mod op;
mod sample;
mod small;
mod softmax;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};
use vit_random::{Random, Site};

use self::large::LargeAttention;
use self::op::Attention;
use self::sample::SampleShape;
use self::small::SmallAttention;
use crate::dropout::DropRate;
use crate::{TokenMask, slices};

/// The tokens whose rows are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// All.
    All,
    /// The first, which is all that a classifier reads of a last block.
    First,
}

/// How queries attend to keys: `softmax(scale Q Kᵀ)`, in so many heads.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// Heads, each of which has a contiguous part of the queries, keys and values.
    pub heads: usize,
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
    /// The keys that are there; without one, all.
    pub mask: Option<&'a TokenMask>,
    /// What becomes of the weights in training.
    pub dropout: Option<AttentionDropout>,
}

impl Attend<'_> {
    /// To all keys, without dropout.
    #[must_use]
    pub const fn new(heads: usize, scale: f64) -> Self {
        Self { heads, scale, mask: None, dropout: None }
    }
}

/// Dropout of attention weights: the mask of a sample is drawn in the order (queries, heads, keys), so that the
/// first token's is the same whichever [`Queries`] are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDropout {
    /// The probability that a weight is dropped.
    pub rate: DropRate,
    /// Where the masks are drawn.
    pub site: Site,
    /// The source of the masks.
    pub random: Random,
}

/// `softmax(scale Q Kᵀ) V` for each head, the heads joined again; the mask's padding has no weight, and dropout acts
/// on the weights.
///
/// PyTorch equivalent: `torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p=rate,
/// scale=scale)` on the three thirds of `qkv`, each split into heads; of the first token, `q[..., :1, :]`.
///
/// # Shapes
/// `qkv` (batch, tokens, 3 * heads * head_dim): queries, then keys, then values, each head's part
/// contiguous -> (batch, tokens, heads * head_dim), or (batch, 1, heads * head_dim) for the first token
///
/// # Errors
/// If the last dimension is not three times a multiple of the heads, or the mask is of another batch.
pub fn self_attention(qkv: &Tensor, queries: Queries, attend: &Attend) -> Result<Tensor> {
    let attend = &attend.simplified();
    let shape = AttentionShape::packed(qkv, queries, attend)?;
    if qkv.elem_count() == 0 {
        // Without tokens there is nothing to attend to: the values, of which there are none.
        return qkv.narrow(1, 0, shape.sample.queries)?.narrow(2, 0, shape.sample.dim());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(qkv) && crate::cuda::suits(shape, qkv)? {
        return crate::cuda::attention(crate::cuda::AttentionInputs::Packed(qkv), shape, attend);
    }
    if !slices::fused(qkv) {
        return composed::self_attention(qkv, queries, attend);
    }
    let (qkv, tracked) = (qkv.contiguous()?, qkv.track_op());
    if large::suits(shape.sample) {
        qkv.apply_op1(Attention(LargeAttention::new(shape, attend, tracked)))
    } else {
        qkv.apply_op1(Attention(SmallAttention::new(shape, attend, tracked)))
    }
}

/// As [`self_attention`], with the queries of one sequence and the keys and values of another, whose padding the mask
/// marks.
///
/// # Shapes
/// `q` (batch, queries, heads * head_dim), `kv` (batch, tokens, 2 * heads * head_dim): keys, then values, each head's
/// part contiguous -> (batch, queries, heads * head_dim)
///
/// # Errors
/// If the shapes do not fit, there are no keys, or the mask is of another batch.
pub fn cross_attention(q: &Tensor, kv: &Tensor, attend: &Attend) -> Result<Tensor> {
    let attend = &attend.simplified();
    let shape = AttentionShape::apart(q, (kv, 2), attend)?;
    if q.elem_count() == 0 {
        return Ok(q.clone());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(q) && crate::cuda::suits(shape, q)? {
        return crate::cuda::attention(crate::cuda::AttentionInputs::Apart(q, kv), shape, attend);
    }
    if !slices::fused(q) {
        return composed::cross_attention(q, kv, attend);
    }
    let tracked = q.track_op() || kv.track_op();
    let (q, kv) = (q.contiguous()?, kv.contiguous()?);
    if large::suits(shape.sample) {
        q.apply_op2(&kv, Attention(LargeAttention::new(shape, attend, tracked)))
    } else {
        q.apply_op2(&kv, Attention(SmallAttention::new(shape, attend, tracked)))
    }
}

/// `softmax(scale Q Kᵀ)` for each head, before dropout: what a token attends to, for whoever wants to look.
///
/// # Shapes
/// `q` (batch, queries, heads * head_dim), `k` (batch, tokens, heads * head_dim) -> (batch, heads, queries, tokens)
///
/// # Errors
/// If the shapes do not fit, there are no keys, or the mask is of another batch.
pub fn attention_weights(q: &Tensor, k: &Tensor, attend: &Attend) -> Result<Tensor> {
    AttentionShape::apart(q, (k, 1), attend)?;
    composed::attention_weights(q, k, attend)
}

impl Attend<'_> {
    /// Without a dropout that drops nothing.
    fn simplified(self) -> Self {
        Self { dropout: self.dropout.filter(|dropout| !dropout.rate.is_zero()), ..self }
    }
}

/// What a score costs besides the products, in the multiply-adds of [`parallel`](crate::parallel): an exponential.
const SCORE_COST: usize = 32;

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
        Self { batch, sample }.with_checked_mask(attend)
    }

    /// Of queries, and of `kv` which has so many vectors for each token.
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
        Self { batch, sample }.with_checked_mask(attend)
    }

    /// Those of so many products of the size of the scores', for [`parallel`](crate::parallel).
    fn multiply_adds(self, products: usize) -> usize {
        let SampleShape { tokens, queries, heads, head_dim } = self.sample;
        self.batch * heads * queries * tokens * (products * head_dim + SCORE_COST)
    }

    fn with_checked_mask(self, attend: &Attend) -> Result<Self> {
        let (batch, tokens) = (self.batch, self.sample.tokens);
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
