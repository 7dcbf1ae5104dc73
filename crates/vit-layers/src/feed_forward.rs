//! The feed-forward of a block: two linear maps with an activation between.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{Activation, Mode};

use crate::place::Place;
use crate::{Bias, Dropout, EncoderConfig, Linear};

/// `y = dropout(fc2(activation(fc1(x))))`, for each token alone.
///
/// # Parameters
/// `fc1.weight` (mlp_dim, dim), `fc1.bias` (mlp_dim), `fc2.weight` (dim, mlp_dim), `fc2.bias` (dim)
#[derive(Clone, Debug)]
pub struct FeedForward {
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
    drop: Dropout,
}

impl FeedForward {
    /// A layer of the configuration's `dim`, `mlp_dim`, `activation` and dropout rate.
    ///
    /// # Errors
    /// If the configuration is wrong, or `vb` has no such parameters or other shapes.
    pub fn new(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        Place::configured("feed-forward", cfg, vb)?;
        Ok(Self {
            fc1: Linear::new(cfg.dim, cfg.mlp_dim, Bias::Yes, &vb.pp("fc1"))?,
            activation: cfg.activation,
            fc2: Linear::new(cfg.mlp_dim, cfg.dim, Bias::Yes, &vb.pp("fc2"))?,
            drop: Dropout::new(cfg.dropout.mlp, &vb.pp("drop"))?,
        })
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim) -> (batch, tokens, dim)
    ///
    /// # Errors
    /// If `xs` has another width.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Result<Tensor> {
        let hidden = self.fc1.forward_activated(xs, self.activation)?; // (batch, tokens, mlp_dim)
        self.fc2.forward_dropped(&hidden, &self.drop, mode)
    }
}
