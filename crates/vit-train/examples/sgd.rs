//! SGD with Nesterov momentum, a warm-up and a cosine schedule.
//!
//! `cargo run -p vit-train --example sgd` trains on vit-data's built-in digits, and fails below 80 % test accuracy.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod common;

use std::error::Error;

use candle_core::{DType, Device};
use common::{Digits, TestAccuracy, trunk_and_head};
use vit_layers::Parameters;
use vit_train::{OptimizerConfig, Schedule, ScheduleKind, TrainConfig, Trainer};

fn main() -> Result<(), Box<dyn Error>> {
    let sgd =
        OptimizerConfig { nesterov: true, weight_decay: 5e-4, ..OptimizerConfig::sgd(0.02, 0.9) };
    let config = TrainConfig {
        schedule: Schedule { kind: ScheduleKind::Cosine, warmup: Some(20), min_lr: None },
        ..TrainConfig::new(3, sgd)
    };
    let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
    let mut accuracy = TestAccuracy::default();
    Trainer::builder(config)
        .threads(2)
        .build(&vb, |vb| trunk_and_head(64, &vb))?
        .run(&Digits::new(6_000), &mut accuracy)?;
    println!("{:.1} % of the test digits", 100.0 * accuracy.0);
    if accuracy.0 < 0.8 {
        return Err("expected at least 80 %".into());
    }
    Ok(())
}
