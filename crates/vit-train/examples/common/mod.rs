//! Shared by the examples: vit-data's built-in digits, and a small model of two layers.

#![allow(dead_code, reason = "no example uses all of it")]

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_data::{Examples, Order, Split};
use vit_layers::{Bias, Linear};
use vit_train::{Batch, Data, Error, Mode, Model, Observer, Record};

/// Pixels of a digit.
pub(crate) const PIXELS: usize = 28 * 28;
pub(crate) const CLASSES: usize = 10;

/// Some of the training digits, and 500 test digits.
pub(crate) struct Digits {
    train: Examples,
    test: Examples,
    count: usize,
}

impl Digits {
    /// The first `count` of 10,000 training digits.
    pub(crate) fn new(count: usize) -> Self {
        let digits = vit_data::digits().expect("the digits are built in");
        Self { train: digits.split(Split::Train), test: digits.split(Split::Test), count }
    }

    fn batch(examples: &Examples, indices: &[u32]) -> Result<Batch> {
        let (images, labels) = examples.batch(indices, &Device::Cpu, DType::F32)?;
        Ok(Batch::new(images.reshape((indices.len(), PIXELS))?, labels))
    }
}

impl Data for Digits {
    fn order(&self, epoch: u64) -> Vec<u32> {
        Order::Shuffled { seed: 7 }.epoch(self.count, epoch)
    }
    fn train_batch(&self, _epoch: u64, indices: &[u32]) -> Result<Batch> {
        Self::batch(&self.train, indices)
    }
    fn test_len(&self) -> usize {
        500
    }
    fn test_batch(&self, indices: &[u32]) -> Result<Batch> {
        Self::batch(&self.test, indices)
    }
}

/// One hidden layer (the trunk) and a head: (batch, pixels) -> (batch, classes).
pub(crate) fn trunk_and_head(width: usize, vb: &VarBuilder) -> Result<impl Model + use<>> {
    let trunk = Linear::new(PIXELS, width, Bias::Yes, &vb.pp("trunk"))?;
    let head = Linear::new(width, CLASSES, Bias::Yes, &vb.pp("head"))?;
    Ok(move |images: &Tensor, _mode: Mode| head.forward(&trunk.forward(images)?.relu()?))
}

/// Keeps the last epoch's test accuracy.
#[derive(Default)]
pub(crate) struct TestAccuracy(pub(crate) f64);

impl Observer for TestAccuracy {
    type Error = Error;
    fn record(&mut self, record: &Record) -> std::result::Result<(), Error> {
        if let Record::Epoch(epoch) = record {
            self.0 = epoch.test_accuracy.unwrap_or_default();
        }
        Ok(())
    }
}
