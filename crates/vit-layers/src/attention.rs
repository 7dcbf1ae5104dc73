//! Multi-head self-attention (Vaswani et al., arXiv 1706.03762, section 3.2.2).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{
    Attend, DropRate, Queries, attention_weights, cross_attention, first_tokens, self_attention,
};
use vit_random::Site;

use crate::dropout::check_rate;
use crate::place::Place;
use crate::qk_norm::QkNorm;
use crate::{Bias, Dropout, EncoderConfig, Linear, Pass};

/// `y = proj(softmax(scale Q Kᵀ) V)` with `Q, K, V = qkv(x)` cut into heads.
///
/// PyTorch equivalent: `timm.layers.Attention`.
///
/// # Parameters
/// With `inner` the width of all heads together: `qkv.weight` (3 inner, dim), `qkv.bias` (3 inner) if `qkv_bias`,
/// `proj.weight` (dim, inner), `proj.bias` (dim); if `qk_norm`, `q_norm` and `k_norm`, layer norms of a head's width
#[derive(Clone, Debug)]
pub struct Attention {
    place: Place,
    dim: usize,
    inner: usize,
    qkv: Linear,
    qk_norm: Option<QkNorm>,
    proj: Linear,
    heads: usize,
    scale: f64,
    weight_drop: (DropRate, Site),
    proj_drop: Dropout,
}

impl Attention {
    /// A layer of the configuration's `dim`, heads, `score_scale`, `qkv_bias`, `qk_norm` and dropout rates.
    ///
    /// # Errors
    /// If the configuration is wrong, or `vb` has no such parameters or other shapes.
    pub fn new(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let place = Place::configured("attention", cfg, vb)?;
        let inner = cfg.width_of_heads();
        Ok(Self {
            place,
            dim: cfg.dim,
            inner,
            qkv: Linear::new(cfg.dim, 3 * inner, cfg.qkv_bias.into(), &vb.pp("qkv"))?,
            qk_norm: QkNorm::new(cfg, vb)?,
            proj: Linear::new(inner, cfg.dim, Bias::Yes, &vb.pp("proj"))?,
            heads: cfg.heads,
            scale: cfg.scale(),
            weight_drop: weight_drop(cfg, vb)?,
            proj_drop: Dropout::new(cfg.dropout.projection, &vb.pp("proj_drop"))?,
        })
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim), a mask of (batch, tokens) -> (batch, tokens, dim)
    ///
    /// # Errors
    /// If `xs` or the mask has another shape or dtype, or no token.
    pub fn forward<'a>(&self, xs: &Tensor, pass: impl Into<Pass<'a>>) -> Result<Tensor> {
        self.forward_for(Queries::All, xs, pass.into(), None)
    }

    /// The same, and what each token attended to: `softmax(scale Q Kᵀ)` of each head, before dropout.
    ///
    /// # Shapes
    /// as [`forward`](Self::forward), and weights (batch, heads, tokens, tokens)
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_with_weights<'a>(
        &self,
        xs: &Tensor,
        pass: impl Into<Pass<'a>>,
    ) -> Result<(Tensor, Tensor)> {
        let mut weights = Vec::new();
        let ys = self.forward_for(Queries::All, xs, pass.into(), Some(&mut weights))?;
        Ok((ys, weights.pop().expect("the weights were asked for")))
    }

    /// The rows of some tokens alone. The weights, of all tokens, are added to `weights`.
    pub(crate) fn forward_for(
        &self,
        queries: Queries,
        xs: &Tensor,
        pass: Pass,
        weights: Option<&mut Vec<Tensor>>,
    ) -> Result<Tensor> {
        let shape = self.place.check_tokens("xs", xs, self.dim, self.qkv.dtype())?;
        self.place.check_mask("xs", pass, shape)?;
        let (heads, scale, dropout) = (self.heads, self.scale, pass.dropout(self.weight_drop));
        let attend = Attend { heads, scale, mask: pass.mask(), dropout };
        let qkv = self.qkv.forward(xs)?; // (batch, tokens, 3 * inner)
        let ys = match (&self.qk_norm, weights) {
            (None, None) => self_attention(&qkv, queries, &attend)?,
            (qk_norm, weights) => {
                let inner = self.inner;
                let (mut q, mut kv) = (qkv.narrow(2, 0, inner)?, qkv.narrow(2, inner, 2 * inner)?);
                if let Some(norm) = qk_norm {
                    (q, kv) = (norm.queries(&q)?, norm.keys(&kv, inner)?);
                }
                if let Some(weights) = weights {
                    weights.push(attention_weights(&q, &kv.narrow(2, 0, inner)?, &attend)?);
                }
                cross_attention(&rows_of(queries, &q)?, &kv, &attend)?
            }
        }; // (batch, queries, inner)
        self.proj.forward_dropped(&ys, &self.proj_drop, pass.mode())
    }
}

/// The rate and the site at which attention weights are dropped.
pub(crate) fn weight_drop(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<(DropRate, Site)> {
    let vb = vb.pp("attn_drop");
    Ok((check_rate("attention", cfg.dropout.attention, &vb)?, Site::named(&vb.prefix())))
}

/// The tokens that are asked for.
pub(crate) fn rows_of(queries: Queries, xs: &Tensor) -> Result<Tensor> {
    match queries {
        Queries::All => Ok(xs.clone()),
        Queries::First => first_tokens(xs, 1),
    }
}
