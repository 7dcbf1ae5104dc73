//! Configurations of the encoder and its layers.

use serde::{Deserialize, Serialize};
use vit_ops::{Activation, DropRate};

use crate::ConfigError;

/// Deeper than any published transformer.
const LARGEST_DEPTH: usize = 1024;
/// Larger than any published transformer. The product of any two sizes stays far from overflow.
const LARGEST_SIZE: usize = 1 << 24;

/// The configuration of an [`Encoder`](crate::Encoder).
///
/// ```
/// use vit_layers::{DropoutRates, EncoderConfig};
///
/// let config = EncoderConfig { dropout: DropoutRates::all(0.1), ..EncoderConfig::new(64, 2, 4) };
/// assert_eq!((config.mlp_dim, config.width_of_head()), (256, 16));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Width of a token.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head; `dim / heads` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Width between the two linear maps of a feed-forward.
    pub mlp_dim: usize,
    /// Where the layer norms are.
    #[serde(default)]
    pub norm: NormPlacement,
    /// The scale of the attention scores.
    pub score_scale: ScoreScale,
    /// The activation of a feed-forward.
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys pass a layer norm (QK norm; Dehghani et al., arXiv 2302.05442, section 2).
    #[serde(default)]
    pub qk_norm: bool,
    /// The base of rotary position embedding, which rotates queries and keys by their positions (Su et al., arXiv
    /// 2104.09864): 10,000 in the paper. `None` by default: attention then knows no positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary: Option<f64>,
    /// The initial value of each branch's layer scale (arXiv 2103.17239, eq. 7). `None` by default: no layer scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Dropout rates.
    pub dropout: DropoutRates,
    /// Drop path: the probability that a sample skips the last block's branches in training. It rises linearly from 0
    /// at the first block.
    pub drop_path: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
}

/// Position of a block's layer norms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// At the start of each branch, `x + f(norm(x))`, with one more norm after the last block, as in ViT.
    #[default]
    Pre,
    /// After each sum, `norm(x + f(x))`, as in *Attention Is All You Need*; none follows the last block.
    Post,
}

/// The factor of the scores `q · k` before the softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreScale {
    /// `head_dim^-0.5`, as in *Attention Is All You Need*.
    HeadDim,
    /// `dim^-0.5`.
    Dim,
}

/// Probabilities of dropping an element in training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropoutRates {
    /// For attention weights.
    pub attention: f64,
    /// After the attention's output projection.
    pub projection: f64,
    /// At the end of a feed-forward.
    pub mlp: f64,
}

impl DropoutRates {
    /// The same rate everywhere.
    #[must_use]
    pub const fn all(rate: f64) -> Self {
        Self { attention: rate, projection: rate, mlp: rate }
    }
}

impl EncoderConfig {
    /// The ViT paper's encoder of this width, depth and number of heads, without dropout: `mlp_dim` of four times
    /// `dim`, GELU, biases throughout, pre-norm with an epsilon of 1e-6.
    #[must_use]
    pub const fn new(dim: usize, depth: usize, heads: usize) -> Self {
        Self {
            dim,
            depth,
            heads,
            head_dim: None,
            mlp_dim: dim.saturating_mul(4),
            norm: NormPlacement::Pre,
            score_scale: ScoreScale::HeadDim,
            activation: Activation::Gelu,
            qkv_bias: true,
            qk_norm: false,
            rotary: None,
            layer_scale: None,
            dropout: DropoutRates::all(0.0),
            drop_path: 0.0,
            layer_norm_eps: 1e-6,
        }
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// If a size is zero or too large, `heads` does not divide `dim`, or a rate or epsilon is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("dim", self.dim),
            ("depth", self.depth),
            ("heads", self.heads),
            ("mlp_dim", self.mlp_dim),
        ];
        for (field, value) in sizes {
            let limit = if field == "depth" { LARGEST_DEPTH } else { LARGEST_SIZE };
            check_size(field, value, limit)?;
        }
        if let Some(scale) = self.layer_scale
            && !scale.is_finite()
        {
            return Err(ConfigError::LayerScale { scale });
        }
        check_rate("dropout.attention", self.dropout.attention)?;
        check_rate("dropout.projection", self.dropout.projection)?;
        check_rate("dropout.mlp", self.dropout.mlp)?;
        check_rate("drop_path", self.drop_path)?;
        self.attention().check()
    }

    /// The configuration of each block's attention.
    #[must_use]
    pub const fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            dim: self.dim,
            heads: self.heads,
            head_dim: self.head_dim,
            score_scale: self.score_scale,
            qkv_bias: self.qkv_bias,
            qk_norm: self.qk_norm,
            rotary: self.rotary,
            weight_dropout: self.dropout.attention,
            projection_dropout: self.dropout.projection,
            layer_norm_eps: self.layer_norm_eps,
        }
    }

    /// The configuration of each block's feed-forward.
    #[must_use]
    pub const fn feed_forward(&self) -> FeedForwardConfig {
        FeedForwardConfig {
            dim: self.dim,
            mlp_dim: self.mlp_dim,
            activation: self.activation,
            dropout: self.dropout.mlp,
        }
    }

    /// Width of a head.
    #[must_use]
    pub const fn width_of_head(&self) -> usize {
        self.attention().width_of_head()
    }

    /// Total width of all heads.
    #[must_use]
    pub const fn width_of_heads(&self) -> usize {
        self.attention().width_of_heads()
    }

    /// The factor of the scores.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.attention().scale()
    }
}

/// The configuration of an [`Attention`](crate::Attention) or a [`CrossAttention`](crate::CrossAttention).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Width of a token.
    pub dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head; `dim / heads` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// The scale of the attention scores.
    pub score_scale: ScoreScale,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys pass a layer norm.
    #[serde(default)]
    pub qk_norm: bool,
    /// The base of rotary position embedding. `None` by default: attention then knows no positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary: Option<f64>,
    /// Dropout rate of attention weights.
    pub weight_dropout: f64,
    /// Dropout rate after the output projection.
    pub projection_dropout: f64,
    /// Added to the variance in the layer norms of `qk_norm`.
    pub layer_norm_eps: f64,
}

impl AttentionConfig {
    /// A configuration of this width and number of heads, with biases, without dropout.
    #[must_use]
    pub const fn new(dim: usize, heads: usize) -> Self {
        EncoderConfig::new(dim, 1, heads).attention()
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// If a size is zero or too large, `heads` does not divide `dim`, or a rate, base or epsilon is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_size("dim", self.dim, LARGEST_SIZE)?;
        check_size("heads", self.heads, LARGEST_SIZE)?;
        match self.head_dim {
            Some(head_dim) => {
                check_size("head_dim", head_dim, LARGEST_SIZE)?;
                check_size("heads * head_dim", self.heads * head_dim, LARGEST_SIZE)?;
            }
            None if !self.dim.is_multiple_of(self.heads) => {
                return Err(ConfigError::Heads { heads: self.heads, dim: self.dim });
            }
            None => {}
        }
        if let Some(base) = self.rotary {
            let head_dim = self.width_of_head();
            if !(base > 0.0 && base.is_finite() && head_dim.is_multiple_of(2)) {
                return Err(ConfigError::Rotary { base, head_dim });
            }
        }
        check_rate("weight_dropout", self.weight_dropout)?;
        check_rate("projection_dropout", self.projection_dropout)?;
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite()) {
            return Err(ConfigError::Eps { eps: self.layer_norm_eps });
        }
        Ok(())
    }

    /// Width of a head.
    #[must_use]
    pub const fn width_of_head(&self) -> usize {
        match self.head_dim {
            Some(head_dim) => head_dim,
            None => self.dim / self.heads,
        }
    }

    /// Total width of all heads.
    #[must_use]
    pub const fn width_of_heads(&self) -> usize {
        self.heads * self.width_of_head()
    }

    /// The factor of the scores.
    #[must_use]
    pub fn scale(&self) -> f64 {
        let width = match self.score_scale {
            ScoreScale::HeadDim => self.width_of_head(),
            ScoreScale::Dim => self.dim,
        };
        (width as f64).powf(-0.5)
    }
}

/// The configuration of a [`FeedForward`](crate::FeedForward).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedForwardConfig {
    /// Width of a token.
    pub dim: usize,
    /// Width between the two linear maps.
    pub mlp_dim: usize,
    /// The activation between them.
    pub activation: Activation,
    /// Dropout rate at the end.
    pub dropout: f64,
}

impl FeedForwardConfig {
    /// A configuration of this width, with `mlp_dim` of four times `dim`, GELU and no dropout.
    #[must_use]
    pub const fn new(dim: usize) -> Self {
        EncoderConfig::new(dim, 1, 1).feed_forward()
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// If a size is zero or too large, or the rate is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_size("dim", self.dim, LARGEST_SIZE)?;
        check_size("mlp_dim", self.mlp_dim, LARGEST_SIZE)?;
        check_rate("dropout", self.dropout).map(|_| ())
    }
}

fn check_size(field: &'static str, value: usize, limit: usize) -> Result<(), ConfigError> {
    match value {
        0 => Err(ConfigError::Zero { field }),
        _ if value <= limit => Ok(()),
        _ => Err(ConfigError::TooLarge { field, value, limit }),
    }
}

pub(crate) fn check_rate(field: &'static str, rate: f64) -> Result<DropRate, ConfigError> {
    DropRate::new(rate).ok_or(ConfigError::Rate { field, rate })
}

#[cfg(test)]
pub(crate) fn tiny() -> EncoderConfig {
    EncoderConfig {
        mlp_dim: 12,
        dropout: DropoutRates::all(0.1),
        layer_norm_eps: 1e-5,
        ..EncoderConfig::new(8, 2, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_field_is_named_with_its_value() {
        let message = |change: fn(&mut EncoderConfig)| {
            let mut config = tiny();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(message(|c| c.heads = 0), "expected heads of at least 1, got 0");
        assert_eq!(
            message(|c| c.heads = 3),
            "expected heads that divide dim, got 3 heads for a dim of 8"
        );
        assert_eq!(
            message(|c| c.heads = 1_000_000_000_000),
            "expected heads of at most 16777216, got 1000000000000"
        );
        assert_eq!(
            message(|c| (c.heads, c.head_dim) = (1 << 24, Some(1 << 24))),
            "expected heads * head_dim of at most 16777216, got 281474976710656"
        );
        assert_eq!(
            message(|c| c.layer_scale = Some(f64::NAN)),
            "expected a finite layer_scale, got NaN"
        );
        assert_eq!(message(|c| c.dropout.mlp = 1.0), "expected dropout.mlp in [0, 1), got 1");
        assert_eq!(message(|c| c.drop_path = f64::NAN), "expected drop_path in [0, 1), got NaN");
        assert_eq!(
            message(|c| c.layer_norm_eps = 0.0),
            "expected a positive layer_norm_eps, got 0"
        );
    }

    #[test]
    fn heads_with_head_dim_need_not_divide_dim() {
        let config = EncoderConfig { heads: 3, head_dim: Some(5), ..tiny() };
        assert_eq!(config.check(), Ok(()));
        assert_eq!((config.width_of_head(), config.width_of_heads()), (5, 15));
    }

    #[test]
    fn score_scale_uses_the_selected_width() {
        let mut config = tiny();
        assert_eq!(config.scale(), 0.5);
        config.score_scale = ScoreScale::Dim;
        assert!((config.scale() - 1.0 / 8.0_f64.sqrt()).abs() < 1e-15);
    }
}
