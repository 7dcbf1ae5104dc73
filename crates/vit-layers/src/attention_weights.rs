//! What tokens attend to, block by block.

use candle_core::{D, Result, Tensor, bail};

/// The attention weights of a forward pass, `softmax(scale Q Kᵀ)` of every block and head, before dropout.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    layers: Vec<Tensor>,
}

impl AttentionWeights {
    pub(crate) fn new(layers: Vec<Tensor>) -> Self {
        Self { layers }
    }

    /// Those of blocks of one's own, the first block's first, such as
    /// [`EncoderBlock::forward_with_weights`](crate::EncoderBlock::forward_with_weights) gives.
    ///
    /// # Errors
    /// If there is none, or they are not all of one shape (batch, heads, tokens, tokens).
    pub fn from_layers(layers: Vec<Tensor>) -> Result<Self> {
        let Some(first) = layers.first() else {
            bail!("attention weights: expected those of a block at least, got none");
        };
        let (batch, _heads, tokens, _) = first.dims4()?;
        for layer in &layers {
            if !matches!(*layer.dims(), [b, _, i, j] if (b, i, j) == (batch, tokens, tokens)) {
                bail!(
                    "attention weights: expected each of shape ({batch}, heads, {tokens}, {tokens}), got {:?}",
                    layer.dims()
                );
            }
        }
        Ok(Self { layers })
    }

    /// Those of each block, the first block's first: row `i` of the last two dimensions is what token `i` attends to.
    ///
    /// # Shapes
    /// each (batch, heads, tokens, tokens)
    #[must_use]
    pub fn layers(&self) -> &[Tensor] {
        &self.layers
    }

    /// How much of each input token reaches each output token through all blocks (attention rollout, Abnar and
    /// Zuidema, arXiv 2005.00928, section 3): the product over the blocks of `(mean of the heads + I) / 2`, where the
    /// identity stands for the residual connection. Each row sums to 1.
    ///
    /// # Shapes
    /// -> (batch, tokens, tokens)
    ///
    /// # Errors
    /// If the device has no room.
    pub fn rollout(&self) -> Result<Tensor> {
        let blocks = self.layers.iter().map(|weights| {
            let mean = weights.mean(1)?; // (batch, tokens, tokens)
            let identity = Tensor::eye(mean.dim(D::Minus1)?, mean.dtype(), mean.device())?;
            mean.broadcast_add(&identity)? / 2.0
        });
        let product = blocks.reduce(|below, block| block?.matmul(&below?));
        product.expect("an encoder has a block at least")
    }
}
