//! The intermediate numbers between an image and its class, as in docs/book/model.md: computed step by step from a
//! model's parameters, independently of the model's own forward pass.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::Serialize;
use vit_layers::{Mode, NormPlacement};
use vit_model::{Pool, VisionTransformer, VitConfig};
use vit_patch::{PatchEmbedding, patchify};

use crate::failure::{Exit, Failure, Result};
use crate::saved_model::SavedModel;

/// Larger models have too many numbers to read.
const MOST_TOKENS: usize = 80;

/// Whether the model has only the steps that are shown.
pub(crate) fn is_possible(config: &VitConfig) -> bool {
    !config.qk_norm && config.norm == NormPlacement::Pre && config.tokens() <= MOST_TOKENS
}

/// Intermediate results of one head of one layer, and of the steps before and after it: matrices as rows.
#[derive(Serialize)]
pub(crate) struct Walk {
    layer: usize,
    head: usize,
    /// Tokens before the patches.
    prefix: usize,
    /// The token that the model's head reads; `None` if it reads a mean.
    read: Option<usize>,
    patches: Rows,
    embedded: Rows,
    tokens: Rows,
    normed: Rows,
    queries: Rows,
    keys: Rows,
    values: Rows,
    scale: f64,
    scores: Rows,
    weights: Rows,
    mixed: Rows,
    pooled: Vec<f32>,
    /// For each class, its weights times the head's input.
    products: Rows,
    head_bias: Vec<f32>,
    logits: Vec<f32>,
    probabilities: Vec<f32>,
}

type Rows = Vec<Vec<f32>>;

impl Walk {
    /// # Shapes
    /// `image` (1, channels, height, width)
    ///
    /// # Errors
    /// If there is no such head, or the model has steps that are not shown.
    pub(crate) fn of(
        saved: &SavedModel,
        model: &VisionTransformer,
        image: &Tensor,
        (layer, head): (usize, usize),
    ) -> Result<Self> {
        let config = &saved.config;
        if !is_possible(config) {
            let message = format!(
                "the steps are shown only for a pre-norm model of at most {MOST_TOKENS} tokens without QK norm"
            );
            return Err(Failure::new(Exit::Usage, message).hint("leave out `walk`"));
        }
        if layer >= config.depth || head >= config.heads {
            let (layers, heads) = (config.depth - 1, config.heads - 1);
            let message = format!(
                "walk: expected a layer of 0 to {layers} and a head of 0 to {heads}, got {layer}.{head}"
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let parameter = |name: &str| {
            saved
                .parameters
                .get(name)
                .ok_or_else(|| Failure::new(Exit::Internal, format!("there is no {name}")))
        };
        let patches = patchify(image, config.patch)?; // (1, patches, pixels)
        let weight = parameter("patch_embed.proj.weight")?.flatten_from(1)?; // (dim, pixels)
        let embedded =
            vit_ops::linear(&patches, &weight, Some(parameter("patch_embed.proj.bias")?))?;
        let all = saved.parameters.clone().into_iter().collect();
        let vb = VarBuilder::from_tensors(all, DType::F32, &Device::Cpu);
        let embedding = PatchEmbedding::new(&config.patch_config(), config.class_token(), &vb)?;
        let tokens = candle_core::Module::forward(&embedding, image)?; // (1, tokens, dim)
        let (encoded, features) = model.forward_features(image, Mode::Eval)?;

        let entering = if layer == 0 { &tokens } else { &features[layer - 1] };
        let norm = |part: &str| parameter(&format!("blocks.{layer}.norm1.{part}"));
        let normed =
            vit_ops::layer_norm(entering, norm("weight")?, norm("bias")?, config.layer_norm_eps)?;
        let bias = saved.parameters.get(&format!("blocks.{layer}.attn.qkv.bias"));
        let qkv =
            vit_ops::linear(&normed, parameter(&format!("blocks.{layer}.attn.qkv.weight"))?, bias)?;
        let width = config.head_dim.unwrap_or(config.dim / config.heads);
        let part = |index: usize| {
            let at = (index * config.heads + head) * width;
            qkv.squeeze(0)?.narrow(1, at, width)?.contiguous() // (tokens, head_dim)
        };
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let scale = config.encoder_config().scale();
        let scores = (queries.matmul(&keys.t()?)? * scale)?; // (tokens, tokens)
        let weights = vit_ops::softmax(&scores)?;
        let mixed = weights.matmul(&values)?;

        let prefix = config.tokens() - patches.dim(1)?;
        let pooled = match config.pool {
            Pool::Cls => encoded.get_on_dim(1, 0)?,
            Pool::First => encoded.get_on_dim(1, prefix)?,
            Pool::Mean => encoded.narrow(1, prefix, encoded.dim(1)? - prefix)?.mean(1)?,
        };
        let logits =
            vit_ops::linear(&pooled, parameter("head.weight")?, Some(parameter("head.bias")?))?;
        let probabilities = vit_ops::softmax(&logits)?;
        let products = parameter("head.weight")?.broadcast_mul(&pooled)?; // (classes, dim)
        Ok(Self {
            layer,
            head,
            prefix,
            read: match config.pool {
                Pool::Cls => Some(0),
                Pool::First => Some(prefix),
                Pool::Mean => None,
            },
            patches: rows(&patches)?,
            embedded: rows(&embedded)?,
            tokens: rows(&tokens)?,
            normed: rows(&normed)?,
            queries: rows(&queries)?,
            keys: rows(&keys)?,
            values: rows(&values)?,
            scale,
            scores: rows(&scores)?,
            weights: rows(&weights)?,
            mixed: rows(&mixed)?,
            pooled: row(&pooled)?,
            products: rows(&products)?,
            head_bias: row(parameter("head.bias")?)?,
            logits: row(&logits)?,
            probabilities: row(&probabilities)?,
        })
    }
}

fn rows(matrix: &Tensor) -> Result<Rows> {
    let width = matrix.dim(candle_core::D::Minus1)?;
    Ok(matrix.reshape(((), width))?.to_vec2()?)
}

fn row(vector: &Tensor) -> Result<Vec<f32>> {
    Ok(vector.flatten_all()?.to_vec1()?)
}
