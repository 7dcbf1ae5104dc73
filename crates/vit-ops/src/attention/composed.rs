//! Attention from candle's tensor operations.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{Attend, AttentionShape, DropoutSource, Queries, SampleShape};
use crate::composed::softmax;
use crate::dropout::dropout_mask;

/// [`self_attention`](crate::self_attention()) from candle's tensor operations.
///
/// # Errors
/// Like the fused form.
pub fn self_attention(qkv: &Tensor, queries: Queries, attend: &Attend) -> Result<Tensor> {
    let AttentionShape { batch, sample } = AttentionShape::packed(qkv, queries, attend)?;
    let SampleShape { tokens, queries, heads, head_dim } = sample;
    let qkv = qkv.reshape((batch, tokens, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
    let part = |index: usize| qkv.get(index)?.contiguous(); // (batch, heads, tokens, head_dim)
    let (q, k, v) = (part(0)?.narrow(2, 0, queries)?.contiguous()?, part(1)?, part(2)?);
    attend_to(&q, &k, &v, attend)
}

/// [`cross_attention`](crate::cross_attention()) from candle's tensor operations.
///
/// # Errors
/// Like the fused form.
pub fn cross_attention(q: &Tensor, kv: &Tensor, attend: &Attend) -> Result<Tensor> {
    let AttentionShape { batch, sample } = AttentionShape::apart(q, (kv, 2), attend)?;
    let SampleShape { tokens, heads, head_dim, .. } = sample;
    let kv = kv.reshape((batch, tokens, 2, heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
    let part = |index: usize| kv.get(index)?.contiguous(); // (batch, heads, tokens, head_dim)
    attend_to(&split(q, heads)?, &part(0)?, &part(1)?, attend)
}

pub(super) fn attention_weights(q: &Tensor, k: &Tensor, attend: &Attend) -> Result<Tensor> {
    weights(&split(q, attend.heads)?, &split(k, attend.heads)?, attend)
}

/// (batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)
fn split(xs: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, dim) = xs.dims3()?;
    xs.reshape((batch, tokens, heads, dim / heads))?.transpose(1, 2)?.contiguous()
}

/// # Shapes
/// `q` (batch, heads, queries, head_dim), `k` (batch, heads, tokens, head_dim) -> (batch, heads, queries, tokens)
fn weights(q: &Tensor, k: &Tensor, attend: &Attend) -> Result<Tensor> {
    let scores = match q.dtype() {
        // Scaled first, because the products of a wide head may overflow.
        DType::F16 | DType::BF16 => (q * attend.scale)?.matmul(&k.t()?)?,
        _ => (q.matmul(&k.t()?)? * attend.scale)?,
    };
    let scores = match attend.mask {
        Some(mask) => scores.broadcast_add(&mask.bias(scores.dtype(), scores.device())?)?,
        None => scores,
    };
    let scores = match attend.bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    let scores = match attend.causal {
        true => scores.broadcast_add(&causal_mask(&scores)?)?,
        false => scores,
    };
    if !attend.by_query() {
        return softmax(&scores);
    }
    // If a query sees no key, the softmax of infinities and its gradient would be NaN.
    let sees = scores.detach().max_keepdim(D::Minus1)?.gt(f64::NEG_INFINITY)?;
    let sees = sees.broadcast_as(scores.shape())?;
    let zeros = scores.zeros_like()?;
    sees.where_cond(&softmax(&sees.where_cond(&scores, &zeros)?)?, &zeros)
}

/// Negative infinity for keys after the query, otherwise 0: (queries, tokens).
fn causal_mask(scores: &Tensor) -> Result<Tensor> {
    let (_, _, queries, tokens) = scores.dims4()?;
    let seen = |query, token| if token <= query { 0.0 } else { f32::NEG_INFINITY };
    let mask = (0..queries).flat_map(|query| (0..tokens).map(move |token| seen(query, token)));
    let mask = Tensor::from_iter(mask, &Device::Cpu)?.reshape((queries, tokens))?;
    mask.to_dtype(scores.dtype())?.to_device(scores.device())
}

fn attend_to(q: &Tensor, k: &Tensor, v: &Tensor, attend: &Attend) -> Result<Tensor> {
    let (batch, heads, queries, head_dim) = q.dims4()?;
    let weights = weights(q, k, attend)?;
    let weights = match attend.dropout {
        Some(DropoutSource { rate, site, random }) => {
            let shape = [batch, queries, heads, k.dim(2)?];
            let mask =
                dropout_mask(&shape, rate, site, &random, weights.dtype(), weights.device())?;
            (weights * mask.transpose(1, 2)?)?
        }
        None => weights,
    };
    let ys = weights.matmul(v)?; // (batch, heads, queries, head_dim)
    ys.transpose(1, 2)?.reshape((batch, queries, heads * head_dim))
}
