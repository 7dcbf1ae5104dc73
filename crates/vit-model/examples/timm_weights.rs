//! Loads timm's weights and prints the five most probable classes of an image of noise.
//!
//! `cargo run -p vit-model --example timm_weights -- FILE.safetensors` reads a file written with
//! `safetensors.torch.save_file(model.state_dict(), "FILE.safetensors")`. Without a file, it first writes a ViT-Ti/16
//! with random weights under timm's names, and checks that the loaded model answers the same.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vit_layers::{Mode, Parameters};
use vit_model::{
    Documents, Foreign, Known, Layout, ModelFile, Preset, Summary, VisionTransformer, VitConfig,
};
use vit_random::{Random, Site};

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(path) = std::env::args_os().nth(1) {
        probabilities_of(&PathBuf::from(path))?;
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vit_tiny_patch16_224.safetensors");
    let written = write_random(&path)?;
    let read = probabilities_of(&path)?;
    if written != read {
        return Err("expected the outputs of the written model, got others".into());
    }
    Ok(())
}

/// Reads a model, describes it, and prints its answer to noise.
fn probabilities_of(path: &Path) -> Result<Vec<f32>, Box<dyn Error>> {
    let file = ModelFile::open(path)?; // mapped: reads the header now, and each tensor on request
    let foreign = Foreign::new(file.infos(), Documents::default(), &Known::default())?;
    let (config, assumed) = (&foreign.config, foreign.assumed.join(", "));
    println!("{} parameters in {} blocks", Summary::of(config)?.parameters(), config.depth);
    println!("assumed, because the file does not say: {assumed}");

    let tensors = foreign.import(&file)?.into_iter().collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let probabilities = answer(config, &vb)?;
    let mut classes: Vec<usize> = (0..probabilities.len()).collect();
    classes.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    for class in classes.into_iter().take(5) {
        println!("class {class}: {:.2} %", 100.0 * probabilities[class]);
    }
    Ok(probabilities)
}

fn write_random(path: &Path) -> Result<Vec<f32>, Box<dyn Error>> {
    let config = Preset::VitTi16.config();
    let parameters = Parameters::seeded(42);
    let vb = parameters.builder(DType::F32, &Device::Cpu);
    let probabilities = answer(&config, &vb)?;
    let native = parameters.sorted().into_iter();
    let native = native.map(|(name, var)| (name, var.as_detached_tensor())).collect();
    let tensors: HashMap<_, _> = Layout::Timm.export(&native, &config)?.into_iter().collect();
    candle_core::safetensors::save(&tensors, path)?;
    Ok(probabilities)
}

/// A model's probabilities for an image of noise.
fn answer(config: &VitConfig, vb: &VarBuilder) -> candle_core::Result<Vec<f32>> {
    let model = VisionTransformer::new(config, vb)?;
    let image = config.image;
    let shape = (1, image.channels, image.height, image.width);
    let mut stream = Random::new(42).stream(Site::named("noise"), 0);
    let pixels = image.channels * image.height * image.width;
    let pixels: Vec<f32> = (0..pixels).map(|_| stream.uniform_in(-1.0, 1.0) as f32).collect();
    let logits = model.forward(&Tensor::from_vec(pixels, shape, &Device::Cpu)?, Mode::Eval)?;
    vit_ops::softmax(&logits)?.squeeze(0)?.to_vec1()
}
