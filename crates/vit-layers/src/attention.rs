//! Multi-head self-attention (Vaswani et al., arXiv 1706.03762, section 3.2.2).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{AttentionDropout, DropRate, Mode, Queries, self_attention};
use vit_random::Site;

use crate::config::check_rate;
use crate::{Bias, Dropout, EncoderConfig, Linear};

/// `y = proj(softmax(scale Q Kᵀ) V)` with `Q, K, V = qkv(x)` cut into heads.
///
/// # Parameters
/// `qkv.weight` (3 dim, dim), `qkv.bias` (3 dim) if `qkv_bias`, `proj.weight` (dim, dim), `proj.bias` (dim)
#[derive(Clone, Debug)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
    scale: f64,
    weight_drop: (DropRate, Site),
    proj_drop: Dropout,
}

impl Attention {
    /// A layer of the configuration's `dim`, `heads`, `score_scale`, `qkv_bias` and dropout rates.
    ///
    /// # Errors
    /// If the configuration is wrong, or `vb` has no such parameters or other shapes.
    pub fn new(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        cfg.check().map_err(candle_core::Error::wrap)?;
        let wrap = candle_core::Error::wrap;
        let weight_rate = check_rate("dropout.attention", cfg.dropout.attention).map_err(wrap)?;
        let proj_rate = check_rate("dropout.projection", cfg.dropout.projection).map_err(wrap)?;
        let path = vb.prefix();
        Ok(Self {
            qkv: Linear::new(cfg.dim, 3 * cfg.dim, cfg.qkv_bias.into(), &vb.pp("qkv"))?,
            proj: Linear::new(cfg.dim, cfg.dim, Bias::Yes, &vb.pp("proj"))?,
            heads: cfg.heads,
            scale: cfg.scale(),
            weight_drop: (weight_rate, Site::named(&format!("{path}.attn_drop"))),
            proj_drop: Dropout::new(proj_rate, &format!("{path}.proj_drop")),
        })
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim) -> (batch, tokens, dim)
    ///
    /// # Errors
    /// If `xs` has another shape.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_for(Queries::All, xs, mode)
    }

    /// The rows of some tokens alone.
    pub(crate) fn forward_for(&self, queries: Queries, xs: &Tensor, mode: Mode) -> Result<Tensor> {
        let (rate, site) = self.weight_drop;
        let dropout = match mode {
            Mode::Eval => None,
            Mode::Train(random) => Some(AttentionDropout { rate, site, random }),
        };
        let qkv = self.qkv.forward(xs)?; // (batch, tokens, 3 * dim)
        let ys = self_attention(&qkv, self.heads, self.scale, queries, dropout)?;
        self.proj_drop.forward(&self.proj.forward(&ys)?, mode)
    }
}
