//! Layer norms of queries and keys (Dehghani et al., arXiv 2302.05442, section 2).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use vit_ops::Norm;

use crate::{AttentionConfig, LayerNorm};

/// Layer norms of each head's queries and keys: one norm for all queries, one for all keys.
///
/// # Parameters
/// `q_norm`, `k_norm`: layer norms of a head's width
#[derive(Clone, Debug)]
pub(crate) struct QkNorm {
    heads: usize,
    queries: LayerNorm,
    keys: LayerNorm,
}

impl QkNorm {
    /// The norms, if the configuration has them.
    pub(crate) fn new(cfg: &AttentionConfig, vb: &VarBuilder) -> Result<Option<Self>> {
        if !cfg.qk_norm {
            return Ok(None);
        }
        let norm = |name| LayerNorm::new(cfg.width_of_head(), cfg.layer_norm_eps, &vb.pp(name));
        Ok(Some(Self { heads: cfg.heads, queries: norm("q_norm")?, keys: norm("k_norm")? }))
    }

    /// The norms of queries and keys, for a stage of an encoder.
    pub(crate) fn norms(&self) -> [Norm<'_>; 2] {
        [self.queries.norm(), self.keys.norm()]
    }

    /// # Shapes
    /// `qkv` (batch, tokens, 3 * inner) -> the same
    pub(crate) fn packed(&self, qkv: &Tensor, inner: usize) -> Result<Tensor> {
        let queries = self.queries(&qkv.narrow(2, 0, inner)?)?;
        let keys_and_values = self.keys(&qkv.narrow(2, inner, 2 * inner)?, inner)?;
        Tensor::cat(&[&queries, &keys_and_values], 2)
    }

    /// # Shapes
    /// `q` (batch, queries, heads * head_dim) -> the same
    pub(crate) fn queries(&self, q: &Tensor) -> Result<Tensor> {
        self.by_head(q, &self.queries)
    }

    /// # Shapes
    /// `k_and_v` (batch, tokens, heads * head_dim and more) -> the same, with the rest unchanged
    pub(crate) fn keys(&self, k_and_v: &Tensor, inner: usize) -> Result<Tensor> {
        let keys = self.by_head(&k_and_v.narrow(2, 0, inner)?, &self.keys)?;
        let rest = k_and_v.narrow(2, inner, k_and_v.dim(2)? - inner)?;
        Tensor::cat(&[&keys, &rest], 2)
    }

    fn by_head(&self, xs: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let (batch, tokens, inner) = xs.dims3()?;
        let heads = xs.contiguous()?.reshape((batch, tokens, self.heads, inner / self.heads))?;
        norm.forward(&heads)?.reshape((batch, tokens, inner))
    }
}
