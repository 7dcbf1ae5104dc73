//! The stages as separate operations: for any device and dtype, and the oracle for the fused form.

use candle_core::{Result, Tensor};

use super::{Affine, AttentionBranch, BranchEnd, FeedForwardBranch, Norm, Stage};
use crate::{
    Attend, Queries, TokenMask, add, dropout, dropout_mask, first_tokens, layer_norm, linear,
    linear_activation, linear_dropout, rotary, scale_features, self_attention,
};

/// [`residual_stages`](crate::residual_stages()) from operations that each return a tensor.
///
/// # Errors
/// If a shape does not match.
pub fn residual_stages(xs: &Tensor, stages: &[Stage], mask: Option<&TokenMask>) -> Result<Tensor> {
    // Padding may hold NaN.
    let mut ys = mask.map_or_else(|| Ok(xs.clone()), |mask| mask.zero_padding(xs))?;
    let mut mask = mask;
    for stage in stages {
        ys = match stage {
            Stage::Attention(branch) => attention(branch, &ys, mask)?,
            Stage::FeedForward(branch) => feed_forward(branch, &ys)?,
            Stage::Norm(norm) => normalised(Some(norm), &ys)?,
        };
        // A first token is never padding.
        let first =
            matches!(stage, Stage::Attention(AttentionBranch { queries: Queries::First, .. }));
        mask = mask.filter(|_| !first);
    }
    mask.map_or_else(|| Ok(ys.clone()), |mask| mask.zero_padding(&ys))
}

fn attention(branch: &AttentionBranch, xs: &Tensor, mask: Option<&TokenMask>) -> Result<Tensor> {
    let AttentionBranch { norm, qkv, queries, attend, proj, end, .. } = branch;
    let qkv = mapped(qkv, &normalised(norm.as_ref(), xs)?)?;
    let qkv = match &branch.qk_norm {
        Some(norms) => norm_heads(&qkv, attend.heads, norms)?,
        None => qkv,
    };
    let qkv = match branch.rotary {
        Some(table) => {
            let head_dim = qkv.dim(2)? / (3 * attend.heads).max(1);
            rotary(&qkv, 2 * attend.heads, (table, head_dim))?
        }
        None => qkv,
    };
    let attend = Attend { mask, ..*attend };
    let ys = self_attention(&qkv, *queries, &attend)?;
    let xs = match queries {
        Queries::All => xs.clone(),
        Queries::First => first_tokens(xs, 1)?,
    };
    add(&xs, &ended(end, proj, &ys)?)
}

/// Normalises each head's queries and keys in packed queries, keys and values (batch, tokens, 3 * heads * head_dim).
fn norm_heads(qkv: &Tensor, heads: usize, norms: &[Norm; 2]) -> Result<Tensor> {
    let (batch, tokens, width) = qkv.dims3()?;
    let inner = width / 3;
    let part = |index: usize| qkv.narrow(2, index * inner, inner);
    let normed = |index: usize| {
        let by_head = part(index)?.contiguous()?.reshape((batch, tokens, heads, inner / heads))?;
        normalised(Some(&norms[index]), &by_head)?.reshape((batch, tokens, inner))
    };
    Tensor::cat(&[normed(0)?, normed(1)?, part(2)?], 2)
}

fn feed_forward(branch: &FeedForwardBranch, xs: &Tensor) -> Result<Tensor> {
    let FeedForwardBranch { norm, fc1, activation, fc2, end } = branch;
    let ys = normalised(norm.as_ref(), xs)?;
    let hidden = match fc1.bias {
        Some(bias) => linear_activation(&ys, fc1.weight, bias, *activation)?,
        None => activation.forward(&mapped(fc1, &ys)?)?,
    };
    add(xs, &ended(end, fc2, &hidden)?)
}

fn normalised(norm: Option<&Norm>, xs: &Tensor) -> Result<Tensor> {
    match norm {
        Some(Norm { weight, bias, eps }) => layer_norm(xs, weight, bias, *eps),
        None => Ok(xs.clone()),
    }
}

fn mapped(map: &Affine, xs: &Tensor) -> Result<Tensor> {
    linear(xs, map.weight, map.bias)
}

/// The branch's last map and its end.
fn ended(end: &BranchEnd, map: &Affine, xs: &Tensor) -> Result<Tensor> {
    let ys = match (end.dropout, map.bias) {
        (Some(drop), Some(bias)) => {
            linear_dropout(xs, (map.weight, bias), (drop.rate, drop.site), &drop.random)?
        }
        (Some(drop), None) => dropout(&mapped(map, xs)?, drop.rate, drop.site, &drop.random)?,
        (None, _) => mapped(map, xs)?,
    };
    let ys = match end.scale {
        Some(gamma) => scale_features(&ys, gamma)?,
        None => ys,
    };
    match end.drop_path {
        Some(drop) if !drop.rate.is_zero() => {
            let mut shape = vec![1; ys.rank()];
            shape[0] = ys.dim(0)?;
            let (dtype, device) = (ys.dtype(), ys.device());
            let mask = dropout_mask(&shape, drop.rate, drop.site, &drop.random, dtype, device)?;
            ys.broadcast_mul(&mask)
        }
        _ => Ok(ys),
    }
}
