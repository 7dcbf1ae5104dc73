//! Multi-head self-attention (Vaswani et al., arXiv 1706.03762, section 3.2.2).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{AttentionDropout, DropRate, Mode, Queries, self_attention};
use vit_random::Site;

use crate::dropout::check_rate;
use crate::place::Place;
use crate::qk_norm::QkNorm;
use crate::{Bias, Dropout, EncoderConfig, Linear};

/// `y = proj(softmax(scale Q Kᵀ) V)` with `Q, K, V = qkv(x)` cut into heads.
///
/// # Parameters
/// With `inner` the width of all heads together: `qkv.weight` (3 inner, dim), `qkv.bias` (3 inner) if `qkv_bias`,
/// `proj.weight` (dim, inner), `proj.bias` (dim); if `qk_norm`, `q_norm` and `k_norm`, layer norms of a head's width
#[derive(Clone, Debug)]
pub struct Attention {
    place: Place,
    dim: usize,
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
        cfg.check().map_err(candle_core::Error::wrap)?;
        let inner = cfg.width_of_heads();
        let attn_drop = vb.pp("attn_drop");
        let rate = check_rate("attention", cfg.dropout.attention, &attn_drop)?;
        Ok(Self {
            place: Place::of("attention", vb),
            dim: cfg.dim,
            qkv: Linear::new(cfg.dim, 3 * inner, cfg.qkv_bias.into(), &vb.pp("qkv"))?,
            qk_norm: cfg.qk_norm.then(|| QkNorm::new(cfg, vb)).transpose()?,
            proj: Linear::new(inner, cfg.dim, Bias::Yes, &vb.pp("proj"))?,
            heads: cfg.heads,
            scale: cfg.scale(),
            weight_drop: (rate, Site::named(&attn_drop.prefix())),
            proj_drop: Dropout::new(cfg.dropout.projection, &vb.pp("proj_drop"))?,
        })
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim) -> (batch, tokens, dim)
    ///
    /// # Errors
    /// If `xs` has another shape or dtype, or no token.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_for(Queries::All, xs, mode)
    }

    /// The rows of some tokens alone.
    pub(crate) fn forward_for(&self, queries: Queries, xs: &Tensor, mode: Mode) -> Result<Tensor> {
        self.place.check_tokens("xs", xs, self.dim, self.qkv.dtype())?;
        let (rate, site) = self.weight_drop;
        let dropout = match mode {
            Mode::Eval => None,
            Mode::Train(random) => Some(AttentionDropout { rate, site, random }),
        };
        let mut qkv = self.qkv.forward(xs)?; // (batch, tokens, 3 * inner)
        if let Some(qk_norm) = &self.qk_norm {
            qkv = qk_norm.forward(&qkv)?;
        }
        let ys = self_attention(&qkv, self.heads, self.scale, queries, dropout)?;
        self.proj_drop.forward(&self.proj.forward(&ys)?, mode)
    }
}
