//! The Vision Transformer (Dosovitskiy et al., *An Image is Worth 16x16 Words*, arXiv 2010.11929).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_layers::{Bias, Dropout, Encoder, Linear, Mode};
use vit_ops::softmax;
use vit_patch::PatchEmbedding;

use crate::{Output, Pool, VitConfig};

/// `y = head(pool(encoder(embedding(images))))`.
///
/// PyTorch equivalent: `timm.models.VisionTransformer`, where `pool` is `Cls`, positions are learned, scores are
/// scaled over the head's width and the output is the logits.
///
/// # Parameters
/// Those of [`PatchEmbedding`] and [`Encoder`], `head.weight` (classes, dim), `head.bias` (classes)
#[derive(Clone, Debug)]
pub struct VisionTransformer {
    embedding: PatchEmbedding,
    embedding_drop: Dropout,
    encoder: Encoder,
    pool: Pool,
    head: Linear,
    output: Output,
}

impl VisionTransformer {
    /// A model of this configuration, its parameters from `vb`.
    ///
    /// # Errors
    /// If the configuration is wrong, or `vb` has no such parameters or other shapes.
    pub fn new(cfg: &VitConfig, vb: &VarBuilder) -> Result<Self> {
        cfg.check().map_err(candle_core::Error::wrap)?;
        Ok(Self {
            embedding: PatchEmbedding::new(&cfg.patch_config(), cfg.class_token(), vb)?,
            embedding_drop: Dropout::new(cfg.dropout.embedding, &vb.pp("pos_drop"))?,
            encoder: Encoder::new(&cfg.encoder_config(), vb)?,
            pool: cfg.pool,
            head: Linear::new(cfg.dim, cfg.classes, Bias::Yes, &vb.pp("head"))?,
            output: cfg.output,
        })
    }

    /// # Shapes
    /// `images` (batch, channels, height, width) -> (batch, classes)
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let tokens = self.embedding.forward(images)?; // (batch, tokens, dim)
        let tokens = self.embedding_drop.forward(&tokens, mode)?;
        let pooled = match self.pool {
            Pool::First | Pool::Cls => self.encoder.forward_first(&tokens, mode)?.squeeze(1)?,
            Pool::Mean => self.encoder.forward(&tokens, mode)?.mean(1)?,
        }; // (batch, dim)
        let logits = self.head.forward(&pooled)?; // (batch, classes)
        match self.output {
            Output::Logits => Ok(logits),
            Output::Softmax => softmax(&logits),
        }
    }
}
