//! Trains the preset `shallow` on `vit-data`'s built-in digits with `vit-train`.
//!
//! `cargo run -p vit-model --example digits` prints the accuracy after each epoch and fails below 80 % test accuracy.
//! It takes some seconds.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;

use candle_core::{DType, Device, Tensor};
use vit_data::{Examples, Order, Split};
use vit_layers::{Mode, Parameters};
use vit_model::{Preset, VisionTransformer};
use vit_train::{Batch, Data, Observer, OptimizerConfig, Record, TrainConfig, Trainer};

const SEED: u64 = 42;

fn main() -> Result<(), Box<dyn Error>> {
    let config = Preset::Shallow.config().with_dropout(0.0);
    let parameters = Parameters::seeded(SEED);
    let vb = parameters.builder(DType::F32, &Device::Cpu);

    let digits = vit_data::digits()?;
    let images = Images { train: digits.split(Split::Train), test: digits.split(Split::Test) };
    let train = TrainConfig { seed: SEED, ..TrainConfig::new(3, OptimizerConfig::adam(2e-3)) };
    let threads = std::thread::available_parallelism()?.get();
    let mut printed = Printed { test_accuracy: 0.0 };
    let trainer = Trainer::builder(train).threads(threads).build(&vb, |vb| {
        let model = VisionTransformer::new(&config, &vb)?;
        Ok(move |images: &Tensor, mode: Mode| model.forward(images, mode))
    });
    trainer?.run(&images, &mut printed)?;
    if printed.test_accuracy < 0.8 {
        return Err(
            format!("expected at least 80 %, got {:.1} %", 100.0 * printed.test_accuracy).into()
        );
    }
    Ok(())
}

/// The digits as the trainer's data.
struct Images {
    train: Examples,
    test: Examples,
}

fn batch(examples: &Examples, indices: &[u32]) -> candle_core::Result<Batch> {
    let (images, labels) = examples.batch(indices, &Device::Cpu, DType::F32)?;
    Ok(Batch::new(images, labels))
}

impl Data for Images {
    fn order(&self, epoch: u64) -> Vec<u32> {
        Order::Shuffled { seed: SEED }.epoch(self.train.len(), epoch)
    }

    fn train_batch(&self, _epoch: u64, indices: &[u32]) -> candle_core::Result<Batch> {
        batch(&self.train, indices)
    }

    fn test_len(&self) -> usize {
        self.test.len()
    }

    fn test_batch(&self, indices: &[u32]) -> candle_core::Result<Batch> {
        batch(&self.test, indices)
    }
}

/// Prints each epoch and keeps the last test accuracy.
struct Printed {
    test_accuracy: f64,
}

impl Observer for Printed {
    type Error = vit_train::Error;

    fn record(&mut self, record: &Record) -> Result<(), Self::Error> {
        if let Record::Epoch(epoch) = record {
            let test_accuracy = epoch.test_accuracy.unwrap_or_default();
            let (train, test) = (100.0 * epoch.train_accuracy, 100.0 * test_accuracy);
            println!("epoch {}: {train:.1} % in training, {test:.1} % in the test", epoch.epoch);
            self.test_accuracy = test_accuracy;
        }
        Ok(())
    }
}
