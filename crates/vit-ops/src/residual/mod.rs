//! Stages of a transformer encoder as one operation: norms and residual branches.
//!
//! Separate operations would each give candle a tensor, and a gradient that candle adds to a tensor of zeros. As one
//! operation, intermediate values lie in reused memory, and padding is skipped.

mod attention;
pub(crate) mod composed;
mod end;
mod feed_forward;
mod linear;
mod norm;
mod rows;
mod stack;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};

use self::stack::Stack;
use crate::dropout::DropoutSource;
use crate::{Activation, Attend, Queries, Rotary, TokenMask, many, slices};

/// A part of an encoder, on tokens (batch, tokens, dim).
#[derive(Clone, Copy, Debug)]
pub enum Stage<'a> {
    /// `y = x + end(proj(attention(qkv(norm(x)))))`
    Attention(AttentionBranch<'a>),
    /// `y = x + end(fc2(activation(fc1(norm(x)))))`
    FeedForward(FeedForwardBranch<'a>),
    /// `y = norm(x)`
    Norm(Norm<'a>),
}

/// The parameters of a [`layer_norm`](crate::layer_norm()).
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// (dim)
    pub weight: &'a Tensor,
    /// (dim)
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// The parameters of a [`linear`](crate::linear()) map.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// (outputs, inputs)
    pub weight: &'a Tensor,
    /// (outputs)
    pub bias: Option<&'a Tensor>,
}

/// Attention of tokens to their own sequence.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBranch<'a> {
    /// At the start of the branch, if any.
    pub norm: Option<Norm<'a>>,
    /// (3 * inner, dim)
    pub qkv: Affine<'a>,
    /// Norms of each head's queries and keys, (head_dim) each.
    pub qk_norm: Option<[Norm<'a>; 2]>,
    /// Rotary positions of queries and keys, if any.
    pub rotary: Option<&'a Rotary>,
    /// The tokens of the output.
    pub queries: Queries,
    /// The attention's options. Padding comes from the stages' mask.
    pub attend: Attend<'a>,
    /// (dim, inner)
    pub proj: Affine<'a>,
    /// The end of the branch, before it is added.
    pub end: BranchEnd<'a>,
}

/// Two linear maps with an activation between.
#[derive(Clone, Copy, Debug)]
pub struct FeedForwardBranch<'a> {
    /// At the start of the branch, if any.
    pub norm: Option<Norm<'a>>,
    /// (mlp_dim, dim)
    pub fc1: Affine<'a>,
    /// Between the maps.
    pub activation: Activation,
    /// (dim, mlp_dim)
    pub fc2: Affine<'a>,
    /// The end of the branch, before it is added.
    pub end: BranchEnd<'a>,
}

/// The end of a branch before it is added, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct BranchEnd<'a> {
    /// Dropout of elements.
    pub dropout: Option<DropoutSource>,
    /// Layer scale: a factor per feature (dim).
    pub scale: Option<&'a Tensor>,
    /// Drop path: dropout of the whole branch, per sample.
    pub drop_path: Option<DropoutSource>,
}

/// Runs the stages in order.
///
/// Padding changes no other token, even if it holds NaN. Its rows become zeros and get no gradient.
///
/// PyTorch equivalent: `torch.nn.TransformerEncoder`, for the stages of its layers.
///
/// # Shapes
/// `xs` (batch, tokens, dim) -> (batch, tokens, dim), or (batch, 1, dim) after a stage of the first token only
///
/// # Errors
/// If there are no tokens, or a shape does not match.
pub fn residual_stages(xs: &Tensor, stages: &[Stage], mask: Option<&TokenMask>) -> Result<Tensor> {
    let (batch, tokens, _dim) = xs.dims3()?;
    if let Some(mask) = mask
        && (mask.batch(), mask.tokens()) != (batch, tokens)
    {
        let got = (mask.batch(), mask.tokens());
        bail!("residual stages: expected a mask of shape ({batch}, {tokens}), got {got:?}");
    }
    let contiguous_padding = mask.is_none_or(|mask| mask.lengths().is_some());
    let norms_heads =
        |stage: &Stage| matches!(stage, Stage::Attention(branch) if branch.qk_norm.is_some());
    let fused = slices::fused(xs) && contiguous_padding && !stages.iter().any(norms_heads);
    if !fused || stages.is_empty() {
        return composed::residual_stages(xs, stages, mask);
    }
    let mut parameters = Vec::new();
    let stack = Stack::new(xs, stages, mask, &mut parameters)?;
    many::apply(xs, &parameters, stack)
}
