//! Attention maps of the token that the head reads.

use candle_core::{DType, Device, Tensor};
use vit_data::Examples;
use vit_layers::Mode;
use vit_model::{Output, Pool, VisionTransformer, VitConfig};
use vit_report::{Attention, Picture};
use vit_train::argmax;

use super::image::picture_of;
use crate::failure::Result;

/// Number of images, each of another class.
const SAMPLES: usize = 6;
/// Above this number of maps for each image, show fewer images.
const MANY_MAPS: usize = 48;
const SAMPLES_OF_MANY_MAPS: usize = 2;

/// The first image of each of the first classes, among the first `seen`.
pub(super) fn of_samples(
    model: &VisionTransformer,
    config: &VitConfig,
    test: &Examples,
    seen: usize,
    device: &Device,
) -> Result<Vec<Attention>> {
    let many = config.depth * config.heads > MANY_MAPS;
    let samples = if many { SAMPLES_OF_MANY_MAPS } else { SAMPLES };
    let first = |class: u32| (0..seen).find(|&index| test.label(index) == class);
    let classes = 0..config.classes as u32;
    let indices = classes.filter_map(first).take(samples);
    let each = indices.map(|index| {
        let (image, _label) = test.batch(&[index as u32], device, DType::F32)?;
        let picture = picture_of(test, index)?;
        let label = test.label(index) as usize;
        let (attention, _probabilities) = attention(model, config, &image, picture)?;
        Ok(Attention { label: Some(label), ..attention })
    });
    each.collect()
}

/// Attention maps of one image, and its class probabilities.
///
/// # Shapes
/// `image` (1, channels, height, width)
///
/// # Errors
/// If the image does not suit the model.
pub(crate) fn attention(
    model: &VisionTransformer,
    config: &VitConfig,
    image: &Tensor,
    picture: Picture,
) -> Result<(Attention, Vec<f32>)> {
    let (outputs, weights) = model.forward_with_weights(image, Mode::Eval)?;
    let probabilities = match config.output {
        Output::Softmax => outputs,
        Output::Logits => vit_ops::softmax(&outputs)?,
    };
    let probabilities: Vec<f32> = probabilities.squeeze(0)?.to_vec1()?;
    let layers = weights.layers().iter().map(|layer| {
        let heads = layer.squeeze(0)?; // (heads, tokens, tokens)
        let heads = (0..heads.dim(0)?).map(|head| patch_weights(config, &heads.get(head)?));
        heads.collect()
    });
    let layers = layers.collect::<candle_core::Result<_>>()?;
    let rollout = patch_weights(config, &weights.rollout()?.squeeze(0)?)?;
    let class = argmax(&probabilities) as usize;
    let prediction = (class, probabilities[class]);
    let grid = config.patch_config().grid();
    Ok((Attention { picture, label: None, prediction, grid, layers, rollout }, probabilities))
}

/// Attention from the token that the head reads to each patch; from all patches on average if it reads their mean.
///
/// # Shapes
/// `weights` (tokens, tokens) -> one for each patch
pub(crate) fn patch_weights(config: &VitConfig, weights: &Tensor) -> candle_core::Result<Vec<f32>> {
    let tokens = weights.dim(0)?;
    let (rows, columns) = config.patch_config().grid();
    let patches = rows * columns;
    let prefix = tokens - patches;
    let to_patches = weights.narrow(1, prefix, patches)?; // (tokens, patches)
    let row = match config.pool {
        Pool::Cls => to_patches.get(0)?,
        Pool::First => to_patches.get(prefix)?,
        Pool::Mean => to_patches.narrow(0, prefix, patches)?.mean(0)?,
    };
    row.to_vec1()
}
