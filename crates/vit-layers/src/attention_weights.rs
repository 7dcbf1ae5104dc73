//! The attention weights of a forward pass.

use candle_core::{D, Result, Tensor, bail};

/// The attention weights of every block and head, `softmax(scale Q Kᵀ)`, before dropout.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    layers: Vec<Tensor>,
}

impl AttentionWeights {
    pub(crate) fn new(layers: Vec<Tensor>) -> Self {
        Self { layers }
    }

    /// Collects the weights of your own blocks, first block first, such as
    /// [`EncoderBlock::forward_with_weights`](crate::EncoderBlock::forward_with_weights) returns.
    ///
    /// # Errors
    /// If there are none, or their shapes are not all the same (batch, heads, tokens, tokens).
    pub fn from_layers(layers: Vec<Tensor>) -> Result<Self> {
        let Some(first) = layers.first() else {
            bail!("attention weights: expected the weights of at least one block, got none");
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

    /// The weights of each block, first block first. Row `i` of the last two dimensions is what token `i` attends to.
    ///
    /// # Shapes
    /// each (batch, heads, tokens, tokens)
    #[must_use]
    pub fn layers(&self) -> &[Tensor] {
        &self.layers
    }

    /// Attention rollout: how much of each input token reaches each output token through all blocks (Abnar and Zuidema,
    /// arXiv 2005.00928, section 3). It is the product over the blocks of `(mean of the heads + I) / 2`, where the
    /// identity is the residual connection. Each row sums to 1.
    ///
    /// # Shapes
    /// -> (batch, tokens, tokens)
    ///
    /// # Errors
    /// If the device is out of memory.
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
