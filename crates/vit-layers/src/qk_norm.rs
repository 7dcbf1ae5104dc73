//! Layer norms of queries and keys (Dehghani et al., arXiv 2302.05442, section 2).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::{EncoderConfig, LayerNorm};

/// Each head's queries and keys through layer norms, one for the queries of all heads and one for the keys.
///
/// # Parameters
/// `q_norm`, `k_norm`: layer norms of a head's width
#[derive(Clone, Debug)]
pub(crate) struct QkNorm {
    heads: usize,
    head_dim: usize,
    q_norm: LayerNorm,
    k_norm: LayerNorm,
}

impl QkNorm {
    pub(crate) fn new(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let head_dim = cfg.width_of_head();
        Ok(Self {
            heads: cfg.heads,
            head_dim,
            q_norm: LayerNorm::new(head_dim, cfg.layer_norm_eps, &vb.pp("q_norm"))?,
            k_norm: LayerNorm::new(head_dim, cfg.layer_norm_eps, &vb.pp("k_norm"))?,
        })
    }

    /// # Shapes
    /// `qkv` (batch, tokens, 3 * heads * head_dim), values last -> the same
    pub(crate) fn forward(&self, qkv: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = qkv.dims3()?;
        let parts = qkv.reshape((batch, tokens, 3, self.heads, self.head_dim))?;
        let part = |index| parts.narrow(2, index, 1)?.contiguous(); // (batch, tokens, 1, heads, head_dim)
        let (q, k) = (self.q_norm.forward(&part(0)?)?, self.k_norm.forward(&part(1)?)?);
        Tensor::cat(&[&q, &k, &part(2)?], 2)?.reshape((batch, tokens, width))
    }
}
