//! One block of the encoder (Dosovitskiy et al., arXiv 2010.11929, eq. 2 and 3).

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{BranchEnd, Queries, Stage, residual_stages};

use crate::attention::without_padding;
use crate::layer_path::LayerPath;
use crate::{
    Attention, DropPath, EncoderConfig, FeedForward, IntoPass, LayerNorm, LayerScale,
    NormPlacement, Pass,
};

/// Pre-norm: `z' = z + attn(norm1(z))`, `z'' = z' + mlp(norm2(z'))`. Post-norm: `z' = norm1(z + attn(z))`,
/// `z'' = norm2(z' + mlp(z'))`. A layer scale, if any, ends each branch.
///
/// PyTorch equivalent: `timm.models.vision_transformer.Block`; with post-norm,
/// `torch.nn.TransformerEncoderLayer(norm_first=False)`, whose parameters have other names.
///
/// # Parameters
/// `norm1`, `attn`, `norm2`, `mlp`; `ls1` and `ls2` if there is a `layer_scale`
#[derive(Clone, Debug)]
pub struct EncoderBlock {
    path: LayerPath,
    dim: usize,
    heads: usize,
    dtype: DType,
    norm: NormPlacement,
    norm1: LayerNorm,
    attn: Attention,
    end1: End,
    norm2: LayerNorm,
    mlp: FeedForward,
    end2: End,
}

impl EncoderBlock {
    /// Creates a block whose two branches are each dropped with probability `cfg.drop_path` in training.
    ///
    /// # Errors
    /// If the configuration is invalid, or `vb` lacks a parameter or has another shape.
    pub fn new(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            path: LayerPath::configured("encoder block", cfg.check(), vb)?,
            dim: cfg.dim,
            heads: cfg.heads,
            dtype: vb.dtype(),
            norm: cfg.norm,
            norm1: LayerNorm::new(cfg.dim, cfg.layer_norm_eps, &vb.pp("norm1"))?,
            attn: Attention::new(&cfg.attention(), &vb.pp("attn"))?,
            end1: End::new(cfg, &vb.pp("ls1"), &vb.pp("drop_path1"))?,
            norm2: LayerNorm::new(cfg.dim, cfg.layer_norm_eps, &vb.pp("norm2"))?,
            mlp: FeedForward::new(&cfg.feed_forward(), &vb.pp("mlp"))?,
            end2: End::new(cfg, &vb.pp("ls2"), &vb.pp("drop_path2"))?,
        })
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim), a mask of (batch, tokens) -> (batch, tokens, dim), padded rows zero
    ///
    /// # Errors
    /// If `xs`, the mask or the bias has another shape or dtype, or there are no tokens.
    pub fn forward<'a>(&self, xs: &Tensor, pass: impl IntoPass<'a>) -> Result<Tensor> {
        let pass = pass.into_pass();
        self.check(xs, pass)?;
        residual_stages(xs, &self.stages(Queries::All, pass), pass.mask())
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
        let ys = self.forward(xs, pass)?;
        // Computed beside the forward pass, so that its bits stay the same.
        let xs = without_padding(xs, pass)?;
        let attends = match self.norm {
            NormPlacement::Pre => self.norm1.forward(&xs)?,
            NormPlacement::Post => xs,
        };
        Ok((ys, self.attn.weights(&attends, pass)?))
    }

    /// Stores the weights of products of several rows transposed, if the output has these queries.
    pub(crate) fn transpose_weights(&mut self, queries: Queries) -> Result<()> {
        self.attn.transpose_weights(queries)?;
        match queries {
            Queries::All => self.mlp.transpose_weights(),
            Queries::First => Ok(()),
        }
    }

    /// The block's equations, for the rows of all or the first token.
    pub(crate) fn stages<'a>(&'a self, queries: Queries, pass: Pass<'a>) -> Vec<Stage<'a>> {
        let (end1, end2) = (self.end1.of(pass), self.end2.of(pass));
        let (norm1, norm2) = (self.norm1.norm(), self.norm2.norm());
        match self.norm {
            NormPlacement::Pre => vec![
                Stage::Attention(self.attn.branch(Some(norm1), queries, pass, end1)),
                Stage::FeedForward(self.mlp.branch(Some(norm2), pass, end2)),
            ],
            NormPlacement::Post => vec![
                Stage::Attention(self.attn.branch(None, queries, pass, end1)),
                Stage::Norm(norm1),
                Stage::FeedForward(self.mlp.branch(None, pass, end2)),
                Stage::Norm(norm2),
            ],
        }
    }

    fn check(&self, xs: &Tensor, pass: Pass) -> Result<()> {
        let (batch, tokens) = self.path.check_tokens("xs", xs, self.dim, self.dtype)?;
        self.path.check_pass("xs", pass, (batch, tokens), (self.heads, tokens))
    }
}

/// The end of a branch, before it is added.
#[derive(Clone, Debug)]
struct End {
    scale: Option<LayerScale>,
    drop_path: DropPath,
}

impl End {
    fn new(cfg: &EncoderConfig, scale: &VarBuilder, drop_path: &VarBuilder) -> Result<Self> {
        let scale =
            cfg.layer_scale.map(|init| LayerScale::new(cfg.dim, init, scale)).transpose()?;
        Ok(Self { scale, drop_path: DropPath::new(cfg.drop_path, drop_path)? })
    }

    fn of(&self, pass: Pass) -> BranchEnd<'_> {
        BranchEnd {
            dropout: None,
            scale: self.scale.as_ref().map(LayerScale::gamma),
            drop_path: pass.dropout(self.drop_path.drawn()),
        }
    }
}
