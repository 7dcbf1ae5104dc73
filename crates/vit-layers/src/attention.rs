//! Multi-head self-attention (Vaswani et al., arXiv 1706.03762, section 3.2.2).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{
    Attend, AttentionBranch, BranchEnd, DropRate, Norm, Queries, Rotary, attention_weights, rotary,
    self_attention,
};
use vit_random::Site;

use crate::dropout::check_rate;
use crate::layer_path::LayerPath;
use crate::qk_norm::QkNorm;
use crate::{AttentionConfig, Bias, Dropout, IntoPass, Linear, Pass};

/// `y = proj(softmax(scale Q Kᵀ + bias) V)` with `Q, K, V = qkv(x)` split into heads.
///
/// PyTorch equivalent: `timm.layers.Attention`.
///
/// # Parameters
/// With `inner` the width of all heads together: `qkv.weight` (3 inner, dim), `qkv.bias` (3 inner) if `qkv_bias`,
/// `proj.weight` (dim, inner), `proj.bias` (dim); if `qk_norm`, `q_norm` and `k_norm`, layer norms of a head's width
#[derive(Clone, Debug)]
pub struct Attention {
    path: LayerPath,
    dim: usize,
    inner: usize,
    qkv: Linear,
    qk_norm: Option<QkNorm>,
    rotary: Option<Rotary>,
    proj: Linear,
    heads: usize,
    scale: f64,
    weight_drop: (DropRate, Site),
    proj_drop: Dropout,
}

impl Attention {
    /// Creates a layer.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use vit_layers::{Attention, AttentionConfig, Mode, Parameters, Pass};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
    /// let config = AttentionConfig { rotary: Some(10_000.0), ..AttentionConfig::new(8, 2) }; // dim, heads
    /// let attention = Attention::new(&config, &vb)?;
    /// let xs = Tensor::ones((2, 5, 8), DType::F32, &Device::Cpu)?;
    /// assert_eq!(attention.forward(&xs, Pass::from(Mode::Eval).causal())?.dims(), [2, 5, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the configuration is invalid, or `vb` lacks a parameter or has another shape.
    pub fn new(cfg: &AttentionConfig, vb: &VarBuilder) -> Result<Self> {
        let path = LayerPath::configured("attention", cfg.check(), vb)?;
        let inner = cfg.width_of_heads();
        Ok(Self {
            path,
            dim: cfg.dim,
            inner,
            qkv: Linear::new(cfg.dim, 3 * inner, cfg.qkv_bias.into(), &vb.pp("qkv"))?,
            qk_norm: QkNorm::new(cfg, vb)?,
            rotary: cfg.rotary.map(Rotary::new).transpose()?,
            proj: Linear::new(inner, cfg.dim, Bias::Yes, &vb.pp("proj"))?,
            heads: cfg.heads,
            scale: cfg.scale(),
            weight_drop: weight_drop(cfg, vb)?,
            proj_drop: Dropout::new(cfg.projection_dropout, &vb.pp("proj_drop"))?,
        })
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim), a mask of (batch, tokens) -> (batch, tokens, dim), padded rows zero
    ///
    /// # Errors
    /// If `xs`, the mask or the bias has another shape or dtype, or there are no tokens.
    pub fn forward<'a>(&self, xs: &Tensor, pass: impl IntoPass<'a>) -> Result<Tensor> {
        let pass = pass.into_pass();
        let qkv = self.queries_keys_and_values(xs, pass)?;
        self.attended(&qkv, pass)
    }

    /// Like [`forward`](Self::forward), and returns the attention weights of each head, before dropout.
    ///
    /// # Shapes
    /// as [`forward`](Self::forward), and weights (batch, heads, tokens, tokens)
    ///
    /// # Errors
    /// Like [`forward`](Self::forward).
    pub fn forward_with_weights<'a>(
        &self,
        xs: &Tensor,
        pass: impl IntoPass<'a>,
    ) -> Result<(Tensor, Tensor)> {
        let pass = pass.into_pass();
        let qkv = self.queries_keys_and_values(xs, pass)?;
        Ok((self.attended(&qkv, pass)?, self.weights_of(&qkv, pass)?))
    }

    /// The attention weights.
    pub(crate) fn weights(&self, xs: &Tensor, pass: Pass) -> Result<Tensor> {
        self.weights_of(&self.queries_keys_and_values(xs, pass)?, pass)
    }

    /// Stores the weights of products of several rows transposed, if the output has these queries.
    pub(crate) fn transpose_weights(&mut self, queries: Queries) -> Result<()> {
        self.qkv.transpose_weight()?;
        match queries {
            Queries::All => self.proj.transpose_weight(),
            Queries::First => Ok(()),
        }
    }

    /// The same layer as a stage of an encoder.
    pub(crate) fn branch<'a>(
        &'a self,
        norm: Option<Norm<'a>>,
        queries: Queries,
        pass: Pass<'a>,
        end: BranchEnd<'a>,
    ) -> AttentionBranch<'a> {
        AttentionBranch {
            norm,
            qkv: self.qkv.affine(),
            qk_norm: self.qk_norm.as_ref().map(QkNorm::norms),
            rotary: self.rotary.as_ref(),
            queries,
            attend: Attend { mask: None, ..self.attend(pass) },
            proj: self.proj.affine(),
            end: BranchEnd { dropout: pass.dropout(self.proj_drop.drawn()), ..end },
        }
    }

    fn attend<'a>(&self, pass: Pass<'a>) -> Attend<'a> {
        Attend {
            mask: pass.mask(),
            causal: pass.is_causal(),
            bias: pass.bias(),
            dropout: pass.dropout(self.weight_drop),
            ..Attend::new(self.heads, self.scale)
        }
    }

    /// Packed, (batch, tokens, 3 * inner).
    fn queries_keys_and_values(&self, xs: &Tensor, pass: Pass) -> Result<Tensor> {
        let (batch, tokens) = self.path.check_tokens("xs", xs, self.dim, self.qkv.dtype())?;
        self.path.check_pass("xs", pass, (batch, tokens), (self.heads, tokens))?;
        let mut qkv = self.qkv.forward(&without_padding(xs, pass)?)?;
        if let Some(norm) = &self.qk_norm {
            qkv = norm.packed(&qkv, self.inner)?;
        }
        if let Some(table) = &self.rotary {
            qkv = rotary(&qkv, 2 * self.heads, (table, self.inner / self.heads))?;
        }
        Ok(qkv)
    }

    fn attended(&self, qkv: &Tensor, pass: Pass) -> Result<Tensor> {
        let ys = self_attention(qkv, Queries::All, &self.attend(pass))?; // (batch, tokens, inner)
        let ys = self.proj.forward_dropped(&ys, &self.proj_drop, pass.mode())?;
        without_padding(&ys, pass)
    }

    fn weights_of(&self, qkv: &Tensor, pass: Pass) -> Result<Tensor> {
        let part = |index: usize| qkv.narrow(2, index * self.inner, self.inner);
        attention_weights(&part(0)?, &part(1)?, &self.attend(pass))
    }
}

/// Sets padded rows to zero, because they may hold NaN.
pub(crate) fn without_padding(xs: &Tensor, pass: Pass) -> Result<Tensor> {
    match pass.mask() {
        Some(mask) => mask.zero_padding(xs),
        None => Ok(xs.clone()),
    }
}

/// The dropout rate and site of attention weights.
pub(crate) fn weight_drop(cfg: &AttentionConfig, vb: &VarBuilder) -> Result<(DropRate, Site)> {
    let vb = vb.pp("attn_drop");
    Ok((check_rate("attention", cfg.weight_dropout, &vb)?, Site::named(&vb.prefix())))
}
