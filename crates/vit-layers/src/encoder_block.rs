//! One block of the encoder (Dosovitskiy et al., arXiv 2010.11929, eq. 2 and 3).

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{Mode, Queries, add};

use crate::attention::rows_of;
use crate::place::Place;
use crate::{
    Attention, DropPath, EncoderConfig, FeedForward, LayerNorm, LayerScale, NormPlacement, Pass,
};

/// Pre-norm: `z' = z + attn(norm1(z))`, `z'' = z' + mlp(norm2(z'))`. Post-norm: `z' = norm1(z + attn(z))`,
/// `z'' = norm2(z' + mlp(z'))`. With a layer scale, each branch ends in one.
///
/// PyTorch equivalent: `timm.models.vision_transformer.Block`; of post-norm,
/// `torch.nn.TransformerEncoderLayer(norm_first=False)`, whose parameters have other names.
///
/// # Parameters
/// `norm1`, `attn`, `norm2`, `mlp`; `ls1` and `ls2` if there is a `layer_scale`
#[derive(Clone, Debug)]
pub struct EncoderBlock {
    place: Place,
    dim: usize,
    dtype: DType,
    norm: NormPlacement,
    norm1: LayerNorm,
    attn: Attention,
    end1: BranchEnd,
    norm2: LayerNorm,
    mlp: FeedForward,
    end2: BranchEnd,
}

impl EncoderBlock {
    /// A block whose two branches are each dropped with probability `cfg.drop_path` in training.
    ///
    /// # Errors
    /// If the configuration is wrong, or `vb` has no such parameters or other shapes.
    pub fn new(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            place: Place::configured("encoder block", cfg, vb)?,
            dim: cfg.dim,
            dtype: vb.dtype(),
            norm: cfg.norm,
            norm1: LayerNorm::new(cfg.dim, cfg.layer_norm_eps, &vb.pp("norm1"))?,
            attn: Attention::new(cfg, &vb.pp("attn"))?,
            end1: BranchEnd::new(cfg, &vb.pp("ls1"), &vb.pp("drop_path1"))?,
            norm2: LayerNorm::new(cfg.dim, cfg.layer_norm_eps, &vb.pp("norm2"))?,
            mlp: FeedForward::new(cfg, &vb.pp("mlp"))?,
            end2: BranchEnd::new(cfg, &vb.pp("ls2"), &vb.pp("drop_path2"))?,
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

    /// The rows of some tokens alone. The attention weights, of all tokens, are added to `weights`.
    pub(crate) fn forward_for(
        &self,
        queries: Queries,
        xs: &Tensor,
        pass: Pass,
        weights: Option<&mut Vec<Tensor>>,
    ) -> Result<Tensor> {
        self.place.check_tokens("xs", xs, self.dim, self.dtype)?;
        let mode = pass.mode();
        match self.norm {
            NormPlacement::Pre => {
                let normed = self.norm1.forward(xs)?;
                let attended = self.attn.forward_for(queries, &normed, pass, weights)?;
                let xs = add(&rows_of(queries, xs)?, &self.end1.forward(&attended, mode)?)?;
                let fed = self.mlp.forward(&self.norm2.forward(&xs)?, mode)?;
                add(&xs, &self.end2.forward(&fed, mode)?)
            }
            NormPlacement::Post => {
                let attended = self.attn.forward_for(queries, xs, pass, weights)?;
                let sum = add(&rows_of(queries, xs)?, &self.end1.forward(&attended, mode)?)?;
                let xs = self.norm1.forward(&sum)?;
                let fed = self.mlp.forward(&xs, mode)?;
                self.norm2.forward(&add(&xs, &self.end2.forward(&fed, mode)?)?)
            }
        }
    }
}

/// What a branch passes before it is added.
#[derive(Clone, Debug)]
struct BranchEnd {
    scale: Option<LayerScale>,
    drop_path: DropPath,
}

impl BranchEnd {
    fn new(cfg: &EncoderConfig, scale: &VarBuilder, drop_path: &VarBuilder) -> Result<Self> {
        let scale =
            cfg.layer_scale.map(|init| LayerScale::new(cfg.dim, init, scale)).transpose()?;
        Ok(Self { scale, drop_path: DropPath::new(cfg.drop_path, drop_path)? })
    }

    fn forward(&self, xs: &Tensor, mode: Mode) -> Result<Tensor> {
        let scaled = self.scale.as_ref().map(|scale| scale.forward(xs)).transpose()?;
        self.drop_path.forward(scaled.as_ref().unwrap_or(xs), mode)
    }
}
