//! What tokens attend to, block by block.

use candle_core::{D, Result, Tensor};

/// The attention weights of a forward pass, `softmax(scale Q Kᵀ)` of every block and head, before dropout.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    layers: Vec<Tensor>,
}

impl AttentionWeights {
    pub(crate) fn new(layers: Vec<Tensor>) -> Self {
        Self { layers }
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
