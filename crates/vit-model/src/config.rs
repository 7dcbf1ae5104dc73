//! The configuration of a Vision Transformer.

use serde::{Deserialize, Serialize};
use vit_layers::{Activation, DropoutRates, EncoderConfig, NormPlacement, ScoreScale};
use vit_patch::{ClassToken, ImageSize, PatchConfig, PatchSize, Position, PositionRows};

use crate::Error;

/// Numbers in the largest image, a third more than 2048 x 2048 in three channels.
const LARGEST_IMAGE: u128 = 1 << 24;
/// Twice the tokens of images of 1024 x 1024 pixels in patches of 16 x 16. One head's attention weights are the square.
const MOST_TOKENS: usize = 1 << 13;

/// Twice the parameters of the ViT-g of *Scaling Vision Transformers* (arXiv 2106.04560).
const LARGEST_MODEL: u128 = 2_000_000_000;

/// The configuration of a [`VisionTransformer`](crate::VisionTransformer).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// The images.
    pub image: ImageSize,
    /// The patches they are cut into.
    pub patch: PatchSize,
    /// Width of a token.
    pub dim: usize,
    /// Number of encoder blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head; `dim / heads` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Width between the two linear maps of a feed-forward.
    pub mlp_dim: usize,
    /// Number of classes.
    pub classes: usize,
    /// The position embedding.
    pub position: Position,
    /// Which tokens have a row in a learned position table.
    #[serde(default)]
    pub position_rows: PositionRows,
    /// The number of register tokens between class token and patches (arXiv 2309.16588).
    #[serde(default)]
    pub registers: usize,
    /// The scale of the attention scores.
    pub score_scale: ScoreScale,
    /// The model's output.
    pub output: Output,
    /// The head's input.
    pub pool: Pool,
    /// The activation of a feed-forward.
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys pass a layer norm (QK norm, arXiv 2302.05442).
    #[serde(default)]
    pub qk_norm: bool,
    /// The initial value of each branch's layer scale (arXiv 2103.17239). `None` by default: no layer scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Where the encoder's layer norms are.
    #[serde(default)]
    pub norm: NormPlacement,
    /// Dropout rates.
    pub dropout: DropoutConfig,
    /// Drop path: the last block's probability of being skipped.
    pub drop_path: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
}

/// The model's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The head's logits.
    Logits,
    /// Their softmax. The notebook takes the cross entropy of it, which weakens gradients.
    Softmax,
}

/// Input of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The first patch's token.
    First,
    /// A class token prepended to the patches.
    Cls,
    /// The mean over all patches.
    Mean,
}

/// Dropout rates in training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropoutConfig {
    /// For embedded tokens.
    pub embedding: f64,
    /// For attention weights.
    pub attention: f64,
    /// After the attention's output projection.
    pub projection: f64,
    /// At the end of a feed-forward.
    pub mlp: f64,
}

impl VitConfig {
    /// Checks the configuration.
    ///
    /// # Errors
    /// If a size is zero or too large, does not divide another, or a rate is out of range.
    pub fn check(&self) -> Result<(), Error> {
        self.patch_config().check()?;
        self.encoder_config().check()?;
        if !(0.0..1.0).contains(&self.dropout.embedding) {
            let rate = self.dropout.embedding;
            return Err(vit_layers::ConfigError::Rate { field: "dropout.embedding", rate }.into());
        }
        if !(1..=65_536).contains(&self.classes) {
            return Err(Error::Classes { classes: self.classes });
        }
        let ImageSize { height, width, channels } = self.image;
        let numbers = [height, width, channels].into_iter().map(|side| side as u128).product();
        if numbers > LARGEST_IMAGE {
            return Err(Error::ImageTooLarge { numbers, limit: LARGEST_IMAGE });
        }
        if self.tokens() > MOST_TOKENS {
            return Err(Error::TooManyTokens { tokens: self.tokens(), limit: MOST_TOKENS });
        }
        let shapes = crate::layout::native_shapes(self);
        let parameters =
            shapes.map(|shape| shape.iter().map(|&size| size as u128).product::<u128>()).sum();
        if parameters > LARGEST_MODEL {
            return Err(Error::TooLarge { parameters, limit: LARGEST_MODEL });
        }
        Ok(())
    }

    /// The configuration of the patch embedding.
    #[must_use]
    pub fn patch_config(&self) -> PatchConfig {
        PatchConfig {
            image: self.image,
            patch: self.patch,
            dim: self.dim,
            position: self.position,
            position_rows: self.position_rows,
            registers: self.registers,
        }
    }

    /// The configuration of the encoder.
    #[must_use]
    pub fn encoder_config(&self) -> EncoderConfig {
        EncoderConfig {
            dim: self.dim,
            depth: self.depth,
            heads: self.heads,
            head_dim: self.head_dim,
            mlp_dim: self.mlp_dim,
            norm: self.norm,
            score_scale: self.score_scale,
            activation: self.activation,
            qkv_bias: self.qkv_bias,
            qk_norm: self.qk_norm,
            rotary: None,
            layer_scale: self.layer_scale,
            dropout: DropoutRates {
                attention: self.dropout.attention,
                projection: self.dropout.projection,
                mlp: self.dropout.mlp,
            },
            drop_path: self.drop_path,
            layer_norm_eps: self.layer_norm_eps,
        }
    }

    /// Whether a class token is prepended.
    #[must_use]
    pub const fn class_token(&self) -> ClassToken {
        match self.pool {
            Pool::Cls => ClassToken::Prepended,
            Pool::First | Pool::Mean => ClassToken::Absent,
        }
    }

    /// Tokens in the encoder's sequence.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.patch_config().tokens(self.class_token())
    }

    /// The same model for another image size in pixels. [`resize`](crate::resize()) converts the parameters.
    #[must_use]
    pub const fn at_image_size(mut self, height: usize, width: usize) -> Self {
        self.image = ImageSize { height, width, channels: self.image.channels };
        self
    }

    /// The same model with every dropout rate of the encoder set to `rate`.
    #[must_use]
    pub fn with_dropout(mut self, rate: f64) -> Self {
        let embedding = self.dropout.embedding;
        self.dropout = DropoutConfig { embedding, attention: rate, projection: rate, mlp: rate };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    #[test]
    fn configurations_round_trip_through_json_and_reject_unknown_fields() {
        let config = VitConfig {
            head_dim: Some(5),
            layer_scale: Some(0.1),
            registers: 2,
            ..Preset::Notebook.config()
        };
        let json = serde_json::to_string(&config).expect("a configuration is plain data");
        assert_eq!(serde_json::from_str::<VitConfig>(&json).expect("as written"), config);
        let misspelt = json.replace("\"heads\"", "\"head\"");
        let error = serde_json::from_str::<VitConfig>(&misspelt).unwrap_err().to_string();
        assert!(error.contains("unknown field `head`"), "{error}");
    }

    /// As written by versions without registers, head widths and so on.
    #[test]
    fn older_configurations_are_still_read() {
        let mut json = serde_json::to_value(Preset::Shallow.config()).expect("plain data");
        let fields = json.as_object_mut().expect("a configuration is an object");
        for field in ["position_rows", "registers", "qk_norm", "norm"] {
            assert!(fields.remove(field).is_some(), "{field}");
        }
        assert_eq!(fields.len(), 16);
        let config: VitConfig = serde_json::from_value(json).expect("an older configuration");
        assert_eq!(config, Preset::Shallow.config());
    }

    #[test]
    fn oversized_models_are_rejected_before_allocation() {
        let mut config = Preset::Shallow.config();
        (config.dim, config.mlp_dim, config.classes) = (65_536, 1 << 24, 65_536);
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with("expected a model of at most 2000000000 parameters"), "{error}");
        config.depth = 1 << 24;
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "expected depth of at most 1024, got 16777216"
        );
    }

    #[test]
    fn oversized_images_are_rejected() {
        let with = |side, patch| {
            let mut config = Preset::Shallow.config();
            config.image = ImageSize { height: side, width: side, channels: 1 };
            config.patch = PatchSize { height: patch, width: patch };
            config.check().map_err(|error| error.to_string())
        };
        assert_eq!(with(4096, 64), Ok(()));
        let large = with(4160, 64).unwrap_err();
        assert!(large.starts_with("expected images of at most 16777216 numbers"), "{large}");
        assert_eq!(with(90, 1), Ok(()));
        let many = with(91, 1).unwrap_err();
        assert!(many.starts_with("expected at most 8192 tokens of an image, got 8281"), "{many}");
    }

    #[test]
    fn invalid_field_is_named() {
        let mut config = Preset::Shallow.config();
        config.classes = 0;
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "expected between 1 and 65536 classes, got 0"
        );
        let mut config = Preset::Shallow.config();
        config.dropout.embedding = 2.0;
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "expected dropout.embedding in [0, 1), got 2"
        );
    }
}
