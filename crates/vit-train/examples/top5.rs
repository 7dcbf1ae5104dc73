//! A custom metric through an observer: top-5 accuracy of the EMA weights, after each epoch and on request.
//!
//! `cargo run -p vit-train --example top5` fails if top-5 accuracy is below top-1, or below 90 %.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod common;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use common::{Digits, trunk_and_head};
use vit_layers::Parameters;
use vit_train::{AfterStep, Error, Evaluated, Observer, OptimizerConfig, TrainConfig, Trainer};

/// Top-5 and top-1 accuracy of each evaluation.
#[derive(Default)]
struct TopFive(Vec<(u64, f64, f64)>);

/// Number of samples whose label is among the five largest outputs.
fn in_top_five(outputs: &Tensor, labels: &Tensor) -> TensorResult<usize> {
    let (rows, labels) = (outputs.to_vec2::<f32>()?, labels.to_vec1::<u32>()?);
    let is_in = rows.iter().zip(labels).filter(|(row, label)| {
        let own = row[*label as usize];
        row.iter().filter(|output| **output > own).count() < 5
    });
    Ok(is_in.count())
}

impl Observer for TopFive {
    type Error = Error;

    fn after_step(&mut self, step: &mut AfterStep<'_>) -> Result<(), Error> {
        if step.step() == 10 {
            step.evaluate();
        }
        Ok(())
    }

    fn wants_outputs(&self) -> bool {
        true
    }

    fn evaluated(&mut self, evaluated: &Evaluated<'_>) -> Result<(), Error> {
        let test = evaluated.test;
        let mut correct = 0;
        for (outputs, targets) in &test.outputs {
            correct += in_top_five(outputs, &targets[0])?;
        }
        self.0.push((evaluated.step, correct as f64 / test.samples as f64, test.accuracy()));
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
    let config = TrainConfig { ema: Some(0.9), ..TrainConfig::new(2, OptimizerConfig::adam(1e-3)) };
    let mut top = TopFive::default();
    Trainer::builder(config)
        .threads(2)
        .build(&vb, |vb| trunk_and_head(32, &vb))?
        .run(&Digits::new(3_000), &mut top)?;
    for (step, five, one) in &top.0 {
        println!("step {step}: top-5 {:.1} %, top-1 {:.1} %", 100.0 * five, 100.0 * one);
    }
    let [.., (_, five, one)] = top.0[..] else { return Err("expected evaluations".into()) };
    if top.0.len() != 3 || five < one || five < 0.9 {
        return Err("expected three evaluations, the last with a top-5 accuracy of 90 %".into());
    }
    Ok(())
}
