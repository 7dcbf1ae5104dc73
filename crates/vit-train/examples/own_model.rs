//! A custom model as a struct, which the trainer builds from its parameters.
//!
//! `cargo run -p vit-train --example own_model` trains it with dropout on vit-data's built-in digits, and fails below
//! 80 % test accuracy.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod common;

use std::error::Error;

use candle_core::{DType, Device, Module, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use common::{CLASSES, Digits, PIXELS, TestAccuracy};
use vit_layers::{Bias, Dropout, Linear, Parameters};
use vit_train::{Mode, Model, OptimizerConfig, TrainConfig, Trainer};

struct Mlp {
    fc1: Linear,
    drop: Dropout,
    fc2: Linear,
}

impl Mlp {
    fn new(hidden: usize, vb: &VarBuilder) -> TensorResult<Self> {
        Ok(Self {
            fc1: Linear::new(PIXELS, hidden, Bias::Yes, &vb.pp("fc1"))?,
            drop: Dropout::new(0.1, &vb.pp("drop"))?,
            fc2: Linear::new(hidden, CLASSES, Bias::Yes, &vb.pp("fc2"))?,
        })
    }
}

impl Model for Mlp {
    fn forward(&self, images: &Tensor, mode: Mode) -> TensorResult<Tensor> {
        let hidden = self.fc1.forward(images)?.relu()?; // (batch, hidden)
        self.fc2.forward(&self.drop.forward(&hidden, mode)?) // (batch, classes)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
    let config = TrainConfig { seed: 1, ..TrainConfig::new(3, OptimizerConfig::adam(1e-3)) };
    let mut accuracy = TestAccuracy::default();
    Trainer::builder(config)
        .threads(2)
        .build(&vb, |vb| Mlp::new(64, &vb))?
        .run(&Digits::new(6_000), &mut accuracy)?;
    println!("{:.1} % of the test digits", 100.0 * accuracy.0);
    if accuracy.0 < 0.8 {
        return Err("expected at least 80 %".into());
    }
    Ok(())
}
