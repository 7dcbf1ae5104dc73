//! The feed-forward: two linear maps with an activation between.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use vit_ops::{Activation, BranchEnd, FeedForwardBranch, Norm};

use crate::attention::without_padding;
use crate::layer_path::LayerPath;
use crate::{Bias, Dropout, FeedForwardConfig, IntoPass, Linear, Pass};

/// `y = dropout(fc2(activation(fc1(x))))`, per token.
///
/// # Parameters
/// `fc1.weight` (mlp_dim, dim), `fc1.bias` (mlp_dim), `fc2.weight` (dim, mlp_dim), `fc2.bias` (dim)
#[derive(Clone, Debug)]
pub struct FeedForward {
    path: LayerPath,
    dim: usize,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
    drop: Dropout,
}

impl FeedForward {
    /// Creates a layer.
    ///
    /// # Errors
    /// If the configuration is invalid, or `vb` lacks a parameter or has another shape.
    pub fn new(cfg: &FeedForwardConfig, vb: &VarBuilder) -> Result<Self> {
        let path = LayerPath::configured("feed-forward", cfg.check(), vb)?;
        Ok(Self {
            path,
            dim: cfg.dim,
            fc1: Linear::new(cfg.dim, cfg.mlp_dim, Bias::Yes, &vb.pp("fc1"))?,
            activation: cfg.activation,
            fc2: Linear::new(cfg.mlp_dim, cfg.dim, Bias::Yes, &vb.pp("fc2"))?,
            drop: Dropout::new(cfg.dropout, &vb.pp("drop"))?,
        })
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim), a mask of (batch, tokens) -> (batch, tokens, dim), padded rows zero
    ///
    /// # Errors
    /// If `xs` or the mask has another shape or dtype, or there are no tokens.
    pub fn forward<'a>(&self, xs: &Tensor, pass: impl IntoPass<'a>) -> Result<Tensor> {
        let pass = pass.into_pass();
        let shape = self.path.check_tokens("xs", xs, self.dim, self.fc1.dtype())?;
        self.path.check_mask("xs", pass, shape)?;
        let xs = without_padding(xs, pass)?;
        let hidden = self.fc1.forward_activated(&xs, self.activation)?; // (batch, tokens, mlp_dim)
        without_padding(&self.fc2.forward_dropped(&hidden, &self.drop, pass.mode())?, pass)
    }

    pub(crate) fn transpose_weights(&mut self) -> Result<()> {
        self.fc1.transpose_weight()?;
        self.fc2.transpose_weight()
    }

    /// The same layer as a stage of an encoder.
    pub(crate) fn branch<'a>(
        &'a self,
        norm: Option<Norm<'a>>,
        pass: Pass,
        end: BranchEnd<'a>,
    ) -> FeedForwardBranch<'a> {
        FeedForwardBranch {
            norm,
            fc1: self.fc1.affine(),
            activation: self.activation,
            fc2: self.fc2.affine(),
            end: BranchEnd { dropout: pass.dropout(self.drop.drawn()), ..end },
        }
    }
}
