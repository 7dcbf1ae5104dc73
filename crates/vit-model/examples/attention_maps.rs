//! Draws the attention rollout (Abnar and Zuidema, arXiv 2005.00928) of a small model's class token beside the digit.
//!
//! `cargo run -p vit-model --example attention_maps` trains for some seconds, then prints three digits and their maps
//! as text. It fails if a map does not sum to one.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;

use candle_core::{D, DType, Device, Tensor};
use vit_data::{Examples, Order, Split};
use vit_layers::{Mode, Parameters, Random};
use vit_model::{Pool, Preset, VisionTransformer, VitConfig};
use vit_ops::cross_entropy_sum;
use vit_patch::PatchSize;
use vit_train::{Optimizer, OptimizerConfig};

const SEED: u64 = 42;
const BATCH: usize = 64;
const EPOCHS: u64 = 4;
/// A patch's side in pixels. A character is one pixel wide and two high.
const PATCH: usize = 4;
const SHADES: &[u8] = b" .:-=+*#%@";

fn main() -> Result<(), Box<dyn Error>> {
    let config = VitConfig {
        patch: PatchSize { height: PATCH, width: PATCH },
        pool: Pool::Cls,
        ..Preset::Shallow.config().with_dropout(0.0)
    };
    let digits = vit_data::digits()?;
    let parameters = Parameters::seeded(SEED);
    train(&config, &parameters, &digits.split(Split::Train))?;

    let vb = parameters.detached_builder(DType::F32, &Device::Cpu);
    let model = VisionTransformer::new(&config, &vb)?;
    let test = digits.split(Split::Test);
    let indices = [0, 1, 2];
    let (images, _labels) = test.batch(&indices, &Device::Cpu, DType::F32)?;
    let (logits, weights) = model.forward_with_weights(&images, Mode::Eval)?;
    let answers = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    // The first row belongs to the class token: how much of each token reaches it.
    let maps = weights.rollout()?.narrow(1, 0, 1)?.squeeze(1)?.to_vec2::<f32>()?;
    for ((index, answer), map) in indices.iter().zip(answers).zip(maps) {
        let index = *index as usize;
        println!("label {}, predicted {answer}", test.label(index));
        draw(&test.image(index)?, &map[1..], digits.width());
        let sum: f32 = map.iter().sum();
        if (sum - 1.0).abs() > 1e-4 {
            return Err(format!("expected a map that sums to 1, got {sum}").into());
        }
    }
    Ok(())
}

/// Trains for this many epochs with Adam.
fn train(
    config: &VitConfig,
    parameters: &Parameters,
    examples: &Examples,
) -> Result<(), Box<dyn Error>> {
    let model = VisionTransformer::new(config, &parameters.builder(DType::F32, &Device::Cpu))?;
    let parameters = parameters.sorted();
    let mut optimizer = Optimizer::new(OptimizerConfig::adam(2e-3), &parameters)?;
    let order = Order::Shuffled { seed: SEED };
    let order: Vec<u32> =
        (1..=EPOCHS).flat_map(|epoch| order.epoch(examples.len(), epoch)).collect();
    for (step, indices) in order.chunks_exact(BATCH).enumerate() {
        let (images, labels) = examples.batch(indices, &Device::Cpu, DType::F32)?;
        let logits = model.forward(&images, Mode::Train(Random::new(SEED).at_step(step as u64)))?;
        let loss = (cross_entropy_sum(&logits, &labels)? / BATCH as f64)?;
        let gradients = loss.backward()?;
        let gradients = parameters.iter().map(|(name, var)| {
            let gradient = gradients.get(var).ok_or_else(|| format!("{name} has no gradient"))?;
            Ok(gradient.detach())
        });
        optimizer.step(&gradients.collect::<Result<Vec<Tensor>, String>>()?)?;
    }
    Ok(())
}

/// Draws image and map side by side, each scaled to its own range.
fn draw(image: &[u8], map: &[f32], width: usize) {
    let patches = width / PATCH;
    let (darkest, brightest) =
        map.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    for y in (0..image.len() / width).step_by(2) {
        let pixels = (0..width).map(|x| f32::from(image[y * width + x]) / 255.0).map(shade);
        let weights = (0..width).map(|x| map[y / PATCH * patches + x / PATCH]);
        let weights = weights.map(|weight| shade((weight - darkest) / (brightest - darkest)));
        println!("{} | {}", pixels.collect::<String>(), weights.collect::<String>());
    }
}

fn shade(share: f32) -> char {
    SHADES[(share * (SHADES.len() - 1) as f32).round() as usize].into()
}
