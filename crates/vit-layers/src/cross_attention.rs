//! Multi-head cross-attention (Vaswani et al., arXiv 1706.03762, section 3.2.3).

use candle_core::{Module, Result, Tensor, bail};
use candle_nn::VarBuilder;
use vit_ops::{Attend, DropRate, attention_weights, cross_attention};
use vit_random::Site;

use crate::attention::{weight_drop, without_padding};
use crate::layer_path::LayerPath;
use crate::qk_norm::QkNorm;
use crate::{AttentionConfig, Bias, Dropout, IntoPass, Linear, Pass};

/// `y = proj(softmax(scale Q Kᵀ) V)` with `Q = q(x)` from one sequence and `K, V = kv(context)` from another, split
/// into heads. A pass's mask marks the context's padding. In a causal pass, query `i` attends to the context up to
/// token `i`.
///
/// PyTorch equivalent: `torch.nn.MultiheadAttention(dim, heads, kdim=context_dim, vdim=context_dim)`, whose parameters
/// have other names.
///
/// # Parameters
/// With `inner` the width of all heads together: `q.weight` (inner, dim), `kv.weight` (2 inner, context_dim), `q.bias`
/// (inner) and `kv.bias` (2 inner) if `qkv_bias`, `proj.weight` (dim, inner), `proj.bias` (dim); if `qk_norm`, `q_norm`
/// and `k_norm`, layer norms of a head's width
#[derive(Clone, Debug)]
pub struct CrossAttention {
    path: LayerPath,
    dim: usize,
    context_dim: usize,
    inner: usize,
    q: Linear,
    kv: Linear,
    qk_norm: Option<QkNorm>,
    proj: Linear,
    heads: usize,
    scale: f64,
    weight_drop: (DropRate, Site),
    proj_drop: Dropout,
}

impl CrossAttention {
    /// Creates a layer for a context of width `context_dim`.
    ///
    /// # Errors
    /// If the configuration is invalid, or `vb` lacks a parameter or has another shape.
    pub fn new(cfg: &AttentionConfig, context_dim: usize, vb: &VarBuilder) -> Result<Self> {
        let path = LayerPath::configured("cross-attention", cfg.check(), vb)?;
        if let Some(base) = cfg.rotary {
            bail!(
                "{path}: expected no rotary positions between two sequences, got a base of {base}"
            );
        }
        if context_dim == 0 {
            bail!("{path}: expected a context_dim of at least 1, got 0");
        }
        let (inner, bias) = (cfg.width_of_heads(), Bias::from(cfg.qkv_bias));
        Ok(Self {
            path,
            dim: cfg.dim,
            context_dim,
            inner,
            q: Linear::new(cfg.dim, inner, bias, &vb.pp("q"))?,
            kv: Linear::new(context_dim, 2 * inner, bias, &vb.pp("kv"))?,
            qk_norm: QkNorm::new(cfg, vb)?,
            proj: Linear::new(inner, cfg.dim, Bias::Yes, &vb.pp("proj"))?,
            heads: cfg.heads,
            scale: cfg.scale(),
            weight_drop: weight_drop(cfg, vb)?,
            proj_drop: Dropout::new(cfg.projection_dropout, &vb.pp("proj_drop"))?,
        })
    }

    /// # Shapes
    /// `xs` (batch, queries, dim), `context` (batch, tokens, context_dim), a mask of the context (batch, tokens)
    /// -> (batch, queries, dim)
    ///
    /// # Errors
    /// If one of them has another shape or dtype, or no tokens.
    pub fn forward<'a>(
        &self,
        xs: &Tensor,
        context: &Tensor,
        pass: impl IntoPass<'a>,
    ) -> Result<Tensor> {
        let pass = pass.into_pass();
        let (q, kv, attend) = self.prepared(xs, context, pass)?;
        self.projected(&cross_attention(&q, &kv, &attend)?, pass)
    }

    /// Like [`forward`](Self::forward), and returns the attention weights of each head, before dropout.
    ///
    /// # Shapes
    /// as [`forward`](Self::forward), and weights (batch, heads, queries, tokens)
    ///
    /// # Errors
    /// Like [`forward`](Self::forward).
    pub fn forward_with_weights<'a>(
        &self,
        xs: &Tensor,
        context: &Tensor,
        pass: impl IntoPass<'a>,
    ) -> Result<(Tensor, Tensor)> {
        let pass = pass.into_pass();
        let (q, kv, attend) = self.prepared(xs, context, pass)?;
        let weights = attention_weights(&q, &kv.narrow(2, 0, self.inner)?, &attend)?;
        Ok((self.projected(&cross_attention(&q, &kv, &attend)?, pass)?, weights))
    }

    /// Queries (batch, queries, inner), keys and values (batch, tokens, 2 * inner), and the attention's options.
    fn prepared<'a>(
        &self,
        xs: &Tensor,
        context: &Tensor,
        pass: Pass<'a>,
    ) -> Result<(Tensor, Tensor, Attend<'a>)> {
        let (batch, queries) = self.path.check_tokens("xs", xs, self.dim, self.q.dtype())?;
        let (of_context, tokens) =
            self.path.check_tokens("context", context, self.context_dim, self.kv.dtype())?;
        if of_context != batch {
            let path = &self.path;
            bail!("{path}: expected a context of {batch} samples as xs, got {of_context}");
        }
        let shape = (batch, tokens);
        self.path.check_pass("the context", pass, shape, (self.heads, queries))?;
        let context = without_padding(context, pass)?;
        let (mut q, mut kv) = (self.q.forward(xs)?, self.kv.forward(&context)?);
        if let Some(qk_norm) = &self.qk_norm {
            (q, kv) = (qk_norm.queries(&q)?, qk_norm.keys(&kv, self.inner)?);
        }
        let attend = Attend {
            mask: pass.mask(),
            causal: pass.is_causal(),
            bias: pass.bias(),
            dropout: pass.dropout(self.weight_drop),
            ..Attend::new(self.heads, self.scale)
        };
        Ok((q, kv, attend))
    }

    fn projected(&self, ys: &Tensor, pass: Pass) -> Result<Tensor> {
        self.proj.forward_dropped(ys, &self.proj_drop, pass.mode())
    }
}
