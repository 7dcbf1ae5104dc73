//! Two parameter groups: the head at the full learning rate, the trunk at a hundredth of it and without weight decay.
//!
//! `cargo run -p vit-train --example two_rates` prints how far each has moved. It fails if the trunk has not moved, or
//! not much less than the head.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod common;

use std::error::Error;

use candle_core::{DType, Device, Tensor};
use common::{Digits, TestAccuracy, trunk_and_head};
use vit_layers::Parameters;
use vit_train::{Group, OptimizerConfig, TrainConfig, Trainer};

fn main() -> Result<(), Box<dyn Error>> {
    let parameters = Parameters::seeded(1);
    let vb = parameters.builder(DType::F32, &Device::Cpu);
    let groups = |name: &str, _value: &Tensor| match name {
        name if name.starts_with("trunk.") => {
            Group::new().with_lr_scale(0.01).with_weight_decay(0.0)
        }
        _ => Group::new(),
    };
    let config = TrainConfig::new(1, OptimizerConfig::adamw(1e-3, 0.05));
    let trainer = Trainer::builder(config).threads(2).groups(groups);
    let mut trainer = trainer.build(&vb, |vb| trunk_and_head(32, &vb))?;
    let values = || parameters.sorted().into_iter().map(|(_, var)| var.copy());
    let before = values().collect::<Result<Vec<_>, _>>()?;
    trainer.run(&Digits::new(3_000), &mut TestAccuracy::default())?;
    let mut moved = Vec::new();
    for ((name, var), before) in parameters.sorted().iter().zip(before) {
        let mean = (var.as_tensor() - before)?.abs()?.mean_all()?.to_scalar::<f32>()?;
        println!("{name} moved by {mean:.5}");
        moved.push(mean);
    }
    // head.bias, head.weight, trunk.bias, trunk.weight
    if moved[3] == 0.0 || moved[3] > 0.1 * moved[1] {
        return Err(
            "expected the trunk to move, by less than a tenth of the head's distance".into()
        );
    }
    Ok(())
}
