//! The Vision Transformer (Dosovitskiy et al., *An Image is Worth 16x16 Words*, arXiv 2010.11929).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_layers::{AttentionWeights, Bias, Dropout, Encoder, Linear, Mode};
use vit_ops::softmax;
use vit_patch::PatchEmbedding;

use crate::{Output, Pool, VitConfig};

/// `y = head(pool(encoder(embedding(images))))`.
///
/// PyTorch equivalent: `timm.models.VisionTransformer`, if `pool` is `Cls`, positions are learned, scores are scaled by
/// the head's width, norms are [`Pre`](vit_layers::NormPlacement) and the output is logits.
///
/// # Parameters
/// [`PatchEmbedding`]'s and [`Encoder`]'s, `head.weight` (classes, dim), `head.bias` (classes)
#[derive(Clone, Debug)]
pub struct VisionTransformer {
    embedding: PatchEmbedding,
    embedding_drop: Dropout,
    encoder: Encoder,
    /// Tokens before the patches.
    prefix: usize,
    pool: Pool,
    head: Linear,
    output: Output,
}

impl VisionTransformer {
    /// Creates a model with parameters from `vb`.
    ///
    /// # Errors
    /// If the configuration is invalid, or `vb` lacks a parameter or has another shape.
    pub fn new(cfg: &VitConfig, vb: &VarBuilder) -> Result<Self> {
        cfg.check().map_err(candle_core::Error::wrap)?;
        Ok(Self {
            embedding: PatchEmbedding::new(&cfg.patch_config(), cfg.class_token(), vb)?,
            embedding_drop: Dropout::new(cfg.dropout.embedding, &vb.pp("pos_drop"))?,
            encoder: Encoder::new(&cfg.encoder_config(), vb)?,
            prefix: cfg.patch_config().prefix(cfg.class_token()),
            pool: cfg.pool,
            head: Linear::new(cfg.dim, cfg.classes, Bias::Yes, &vb.pp("head"))?,
            output: cfg.output,
        })
    }

    /// For many forward passes of one image on a CPU: see [`Encoder::for_inference`] and
    /// [`PatchEmbedding::for_inference`].
    ///
    /// # Errors
    /// If memory is full.
    pub fn for_inference(self) -> Result<Self> {
        let (embedding, encoder) = (self.embedding.for_inference()?, self.encoder.for_inference()?);
        Ok(Self { embedding, encoder, ..self })
    }

    /// # Shapes
    /// `images` (batch, channels, height, width) -> (batch, classes)
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_head(&self.forward_pooled(images, mode)?)
    }

    /// The head's input: an image's features, for a linear probe or a search.
    ///
    /// PyTorch equivalent: timm's `model.forward_head(model.forward_features(images), pre_logits=True)`.
    ///
    /// # Shapes
    /// `images` (batch, channels, height, width) -> (batch, dim)
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn forward_pooled(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let tokens = self.embed(images, mode)?; // (batch, tokens, dim)
        if self.pools_first() {
            self.encoder.forward_first(&tokens, mode)?.squeeze(1)
        } else {
            self.pooled(&self.encoder.forward(&tokens, mode)?)
        }
    }

    /// Applies only the head, to the output of [`forward_pooled`](Self::forward_pooled).
    ///
    /// # Shapes
    /// `pooled` (batch, dim) -> (batch, classes)
    ///
    /// # Errors
    /// If the features have another width.
    pub fn forward_head(&self, pooled: &Tensor) -> Result<Tensor> {
        let logits = self.head.forward(pooled)?; // (batch, classes)
        match self.output {
            Output::Logits => Ok(logits),
            Output::Softmax => softmax(&logits),
        }
    }

    /// Every token after the encoder's last norm, and each block's output, first block first, for dense or multi-scale
    /// heads. Tokens are the class token, if any, the registers, then the patches row by row.
    ///
    /// PyTorch equivalent: timm's `model.forward_features(images)`.
    ///
    /// # Shapes
    /// `images` (batch, channels, height, width) -> (batch, tokens, dim), and the same for each block
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn forward_features(&self, images: &Tensor, mode: Mode) -> Result<(Tensor, Vec<Tensor>)> {
        self.encoder.forward_with_features(&self.embed(images, mode)?, mode)
    }

    /// Like [`forward`](Self::forward), and returns the attention weights. Tokens are the class token, if any, the
    /// registers, then the patches row by row.
    ///
    /// # Shapes
    /// `images` (batch, channels, height, width) -> (batch, classes), and weights (batch, heads, tokens, tokens) of
    /// each block
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn forward_with_weights(
        &self,
        images: &Tensor,
        mode: Mode,
    ) -> Result<(Tensor, AttentionWeights)> {
        let tokens = self.embed(images, mode)?;
        let (encoded, weights) = self.encoder.forward_with_weights(&tokens, mode)?;
        Ok((self.forward_head(&self.pooled(&encoded)?)?, weights))
    }

    fn embed(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.embedding_drop.forward(&self.embedding.forward(images)?, mode)
    }

    /// Whether the head reads the first token.
    fn pools_first(&self) -> bool {
        match self.pool {
            Pool::Cls => true,
            Pool::First => self.prefix == 0,
            Pool::Mean => false,
        }
    }

    /// `encoded` (batch, tokens, dim) -> (batch, dim)
    fn pooled(&self, encoded: &Tensor) -> Result<Tensor> {
        match self.pool {
            Pool::Cls => encoded.get_on_dim(1, 0),
            Pool::First => encoded.get_on_dim(1, self.prefix),
            Pool::Mean => vit_ops::mean_tokens(encoded, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;
    use candle_core::{DType, Device, Var};
    use std::collections::HashMap;
    use vit_layers::{NormPlacement, Parameters};
    use vit_patch::{ImageSize, PatchSize, Position, PositionRows};
    use vit_random::{Random, Site};

    /// Central differences in `f64` with this step are accurate to about its square.
    const STEP: f64 = 1e-5;
    const DIFFERENCE_TOLERANCE: f64 = 1e-7;

    fn tiny(pool: Pool, registers: usize) -> VitConfig {
        VitConfig {
            image: ImageSize { height: 4, width: 6, channels: 2 },
            patch: PatchSize { height: 2, width: 2 },
            dim: 4,
            depth: 1,
            heads: 2,
            mlp_dim: 6,
            classes: 3,
            pool,
            registers,
            activation: vit_layers::Activation::Gelu,
            qkv_bias: true,
            ..Preset::Shallow.config()
        }
    }

    fn normal(shape: &[usize]) -> Result<Tensor> {
        let mut stream = Random::new(5).stream(Site::named("test"), 0);
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn images() -> Result<Tensor> {
        normal(&[2, 2, 4, 6])
    }

    fn parameters(cfg: &VitConfig) -> Result<HashMap<String, Tensor>> {
        let parameters = Parameters::seeded(1);
        VisionTransformer::new(cfg, &parameters.builder(DType::F64, &Device::Cpu))?;
        let tensors = parameters.sorted().into_iter();
        Ok(tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect())
    }

    fn forward(cfg: &VitConfig, parameters: &HashMap<String, Tensor>) -> Result<Tensor> {
        let vb = VarBuilder::from_tensors(parameters.clone(), DType::F64, &Device::Cpu);
        VisionTransformer::new(cfg, &vb)?.forward(&images()?, Mode::Eval)
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let softmax = VitConfig { output: Output::Softmax, ..tiny(Pool::Mean, 0) };
        let patches = VitConfig { position_rows: PositionRows::Patches, ..tiny(Pool::Cls, 1) };
        let modern = VitConfig {
            head_dim: Some(3),
            qk_norm: true,
            layer_scale: Some(0.5),
            norm: NormPlacement::Post,
            ..tiny(Pool::Cls, 0)
        };
        for cfg in [patches, tiny(Pool::First, 2), tiny(Pool::Mean, 1), softmax, modern] {
            let parameters = parameters(&cfg)?;
            let weighed = |parameters: &HashMap<String, Tensor>| {
                (forward(&cfg, parameters)? * normal(&[2, 3])?)?.sum_all()
            };
            for (name, tensor) in &parameters {
                let mut moved = parameters.clone();
                let var = Var::from_tensor(tensor)?;
                moved.insert(name.clone(), var.as_tensor().clone());
                let gradients = weighed(&moved)?.backward()?;
                let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has none"));
                let values = tensor.flatten_all()?.to_vec1::<f64>()?;
                let gradient = gradient.flatten_all()?.to_vec1::<f64>()?;
                for (index, gradient) in gradient.into_iter().enumerate() {
                    let mut at = |by: f64| {
                        let mut values = values.clone();
                        values[index] += by;
                        let tensor = Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?;
                        moved.insert(name.clone(), tensor);
                        weighed(&moved)?.to_scalar::<f64>()
                    };
                    let difference = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
                    assert!(
                        (gradient - difference).abs()
                            <= DIFFERENCE_TOLERANCE * (1.0 + gradient.abs()),
                        "{name}, element {index}: autograd {gradient}, differences {difference}"
                    );
                }
            }
        }
        Ok(())
    }

    /// A mean over all tokens would include a register that copies a patch's token.
    #[test]
    fn registers_are_not_pooled() -> Result<()> {
        for pool in [Pool::First, Pool::Mean] {
            let cfg = VitConfig { position: Position::None, ..tiny(pool, 2) };
            let mut parameters = parameters(&cfg)?;
            // Without attention and feed-forward, tokens pass through unchanged.
            for name in ["attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"] {
                let tensor = parameters.get_mut(&format!("blocks.0.{name}")).expect("a parameter");
                *tensor = tensor.zeros_like()?;
            }
            let with = forward(&cfg, &parameters)?;
            parameters.remove("reg_token");
            let without = forward(&VitConfig { registers: 0, ..cfg }, &parameters)?;
            let difference = (with - without)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(difference < 1e-14, "{pool:?}: {difference:e}");
        }
        Ok(())
    }

    #[test]
    fn attention_weights_do_not_change_output() -> Result<()> {
        for cfg in
            [tiny(Pool::Cls, 1), tiny(Pool::First, 0), tiny(Pool::First, 2), tiny(Pool::Mean, 1)]
        {
            let vb = VarBuilder::from_tensors(parameters(&cfg)?, DType::F64, &Device::Cpu);
            let model = VisionTransformer::new(&cfg, &vb)?;
            let (logits, weights) = model.forward_with_weights(&images()?, Mode::Eval)?;
            let difference = (logits - model.forward(&images()?, Mode::Eval)?)?.abs()?.max_all()?;
            assert!(difference.to_scalar::<f64>()? < 1e-14);
            let tokens = cfg.tokens();
            assert_eq!(weights.layers()[0].dims(), [2, 2, tokens, tokens]);
        }
        Ok(())
    }

    #[test]
    fn logits_equal_the_head_of_the_features() -> Result<()> {
        for cfg in [tiny(Pool::Cls, 1), tiny(Pool::First, 0), tiny(Pool::Mean, 1)] {
            let vb = VarBuilder::from_tensors(parameters(&cfg)?, DType::F64, &Device::Cpu);
            let model = VisionTransformer::new(&cfg, &vb)?;
            let pooled = model.forward_pooled(&images()?, Mode::Eval)?;
            let (encoded, blocks) = model.forward_features(&images()?, Mode::Eval)?;
            assert_eq!(encoded.dims(), [2, cfg.tokens(), cfg.dim]);
            assert_eq!((blocks.len(), blocks[0].dims()), (cfg.depth, encoded.dims()));
            let logits = model.forward(&images()?, Mode::Eval)?;
            for features in [pooled, model.pooled(&encoded)?] {
                let difference = (model.forward_head(&features)? - &logits)?.abs()?.max_all()?;
                assert!(difference.to_scalar::<f64>()? < 1e-14);
            }
        }
        Ok(())
    }

    #[test]
    fn invalid_configuration_is_named() {
        let cfg = VitConfig { heads: 3, ..tiny(Pool::Cls, 0) };
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let error = VisionTransformer::new(&cfg, &vb).unwrap_err().to_string();
        assert!(error.contains("expected heads that divide dim, got 3 heads for"), "{error}");
    }
}
