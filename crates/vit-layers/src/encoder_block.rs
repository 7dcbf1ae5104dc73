//! One pre-norm block of the encoder (Dosovitskiy et al., arXiv 2010.11929, eq. 2 and 3).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{DropRate, Mode, Queries};

use crate::{Attention, DropPath, EncoderConfig, FeedForward, LayerNorm};

/// `z' = z + attn(norm1(z))`, `z'' = z' + mlp(norm2(z'))`.
///
/// # Parameters
/// `norm1`, `attn`, `norm2`, `mlp`
#[derive(Clone, Debug)]
pub struct EncoderBlock {
    norm1: LayerNorm,
    attn: Attention,
    drop_path1: DropPath,
    norm2: LayerNorm,
    mlp: FeedForward,
    drop_path2: DropPath,
}

impl EncoderBlock {
    /// A block whose two branches are dropped with probability `drop_path` in training.
    ///
    /// # Errors
    /// If the configuration is wrong, or `vb` has no such parameters or other shapes.
    pub fn new(cfg: &EncoderConfig, drop_path: DropRate, vb: &VarBuilder) -> Result<Self> {
        let path = vb.prefix();
        Ok(Self {
            norm1: LayerNorm::new(cfg.dim, cfg.layer_norm_eps, &vb.pp("norm1"))?,
            attn: Attention::new(cfg, &vb.pp("attn"))?,
            drop_path1: DropPath::new(drop_path, &format!("{path}.drop_path1")),
            norm2: LayerNorm::new(cfg.dim, cfg.layer_norm_eps, &vb.pp("norm2"))?,
            mlp: FeedForward::new(cfg, &vb.pp("mlp"))?,
            drop_path2: DropPath::new(drop_path, &format!("{path}.drop_path2")),
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
        let attended = self.attn.forward_for(queries, &self.norm1.forward(xs)?, mode)?;
        let xs = match queries {
            Queries::All => xs.clone(),
            Queries::First => xs.narrow(1, 0, 1)?,
        };
        let xs = (xs + self.drop_path1.forward(&attended, mode)?)?;
        let fed = self.mlp.forward(&self.norm2.forward(&xs)?, mode)?;
        xs + self.drop_path2.forward(&fed, mode)?
    }
}
