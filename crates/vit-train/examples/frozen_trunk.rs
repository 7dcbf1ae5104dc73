//! A frozen trunk with a trained head: the trunk does not change and costs no backward pass, but is evaluated and saved
//! with the head.
//!
//! `cargo run -p vit-train --example frozen_trunk` times a run with a trained and one with a frozen trunk. It fails if
//! the frozen trunk has changed, the head has not learned, or freezing saved no time.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod common;

use std::error::Error;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use common::{Digits, TestAccuracy, trunk_and_head};
use vit_layers::Parameters;
use vit_train::{Data, Group, OptimizerConfig, TrainConfig, Trainer};

/// Most of the parameters: 784 to 1,024.
const WIDTH: usize = 1_024;

/// Trains one epoch; returns the time, the test accuracy and the trunk's weight.
fn train(
    groups: impl Fn(&str, &Tensor) -> Group + Send + Sync + 'static,
    data: &dyn Data,
) -> Result<(Duration, f64, Tensor), Box<dyn Error>> {
    let parameters = Parameters::seeded(5);
    let trainer = Trainer::builder(TrainConfig::new(1, OptimizerConfig::adam(1e-3))).groups(groups);
    let vb = parameters.builder(DType::F32, &Device::Cpu);
    let mut trainer = trainer.build(&vb, |vb| trunk_and_head(WIDTH, &vb))?;
    let mut accuracy = TestAccuracy::default();
    let begun = Instant::now();
    trainer.run(data, &mut accuracy)?;
    let trunk = parameters.sorted().into_iter().find(|(name, _)| name == "trunk.weight");
    let (_, trunk) = trunk.ok_or("expected a trunk")?;
    Ok((begun.elapsed(), accuracy.0, trunk.as_detached_tensor()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let data = Digits::new(3_000);
    let freeze_trunk = |name: &str, _: &Tensor| {
        if name.starts_with("trunk.") { Group::frozen() } else { Group::new() }
    };
    let (live, ..) = train(|_, _| Group::new(), &data)?;
    let (frozen, accuracy, trunk) = train(freeze_trunk, &data)?;
    println!("{live:.2?} with the trunk trained, {frozen:.2?} with it frozen");
    println!("{:.1} % of the test digits with the head alone", 100.0 * accuracy);
    let initial = Parameters::seeded(5);
    trunk_and_head(WIDTH, &initial.builder(DType::F32, &Device::Cpu))?;
    let (_, initial) = initial.sorted().pop().ok_or("expected a trunk")?;
    if (trunk - initial.as_tensor())?.abs()?.sum_all()?.to_scalar::<f32>()? != 0.0 {
        return Err("expected the frozen trunk not to change".into());
    }
    if accuracy < 0.6 {
        return Err("expected the head alone to reach 60 %".into());
    }
    // Freezing saves about half of the backward pass and most of the optimiser's work; the machine may be busy.
    if frozen > live {
        return Err("expected a frozen trunk to save time".into());
    }
    Ok(())
}
