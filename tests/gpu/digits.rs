//! The built-in digits in the trainer's interface, on either device.

use candle_core::{DType, Device, Result, Tensor};
use vit_data::{Dataset, Examples, Order, Split};
use vit_train::{Batch, Bytes, Data};

/// Whether the images stay on the GPU, or each batch is copied there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    Kept,
    Given,
}

/// The first training and test images of the digits.
pub(crate) struct Digits {
    train: Examples,
    test: Examples,
    count: usize,
    device: Device,
    way: Transfer,
}

impl Digits {
    pub(crate) fn new(count: usize, device: &Device, way: Transfer) -> Self {
        let digits: Dataset = vit_data::digits().expect("the digits are built in");
        let (train, test) = (digits.split(Split::Train), digits.split(Split::Test));
        Self { train, test, count, device: device.clone(), way }
    }

    fn batch(&self, examples: &Examples, indices: &[u32]) -> Result<Batch> {
        let (images, labels) = examples.batch(indices, &self.device, DType::F32)?;
        Ok(Batch::new(images, labels))
    }
}

impl Data for Digits {
    fn order(&self, epoch: u64) -> Vec<u32> {
        Order::Shuffled { seed: 4 }.epoch(self.count, epoch)
    }

    fn train_batch(&self, _epoch: u64, indices: &[u32]) -> Result<Batch> {
        self.batch(&self.train, indices)
    }

    fn train_bytes(&self) -> Option<Bytes> {
        let (pixels, table) = self.train.bytes()?;
        let labels = Tensor::new(self.train.labels(), &Device::Cpu).ok()?;
        let (pixels, shape) = (pixels.clone(), self.train.shape());
        (self.way == Transfer::Kept).then_some(Bytes { pixels, labels, table, shape })
    }

    fn test_len(&self) -> usize {
        500
    }

    fn test_batch(&self, indices: &[u32]) -> Result<Batch> {
        self.batch(&self.test, indices)
    }
}
