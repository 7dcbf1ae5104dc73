//! The images that are trained on, held out and tested with.

use candle_core::{DType, Device, Tensor};
use vit_data::{Augment, Augmented, Examples, Order, Split, hold_out};
use vit_train::{Batch, Bytes, Data};

use crate::dataset::Found;
use crate::failure::{Exit, Failure, Result};
use crate::settings::Settings;

/// The dataset as the trainer sees it.
pub(crate) struct Images {
    /// Of which some are trained on, and the others may be held out.
    examples: Examples,
    trained: Vec<u32>,
    /// What choices are made by: the dataset's own validation part, or images held out of the training part.
    validation: Examples,
    held_out: Vec<u32>,
    test: Examples,
    order: Order,
    augment: Augment,
    seed: u64,
    device: Device,
}

impl Images {
    pub(super) fn new(found: &Found, settings: &Settings, device: Device) -> Self {
        let shuffled = Order::Shuffled { seed: settings.train.seed };
        let examples = found.dataset.split(Split::Train);
        let (trained, held_out) = hold_out(examples.len(), settings.val_split, settings.train.seed);
        let own = found.dataset.split(Split::Validation);
        let (validation, held_out) = if own.is_empty() {
            (examples.clone(), held_out)
        } else {
            let all = (0..own.len() as u32).collect();
            (own, all)
        };
        Self {
            examples,
            trained,
            validation,
            held_out,
            test: found.dataset.split(Split::Test),
            order: if settings.shuffle { shuffled } else { Order::InOrder },
            augment: settings.augment,
            seed: settings.train.seed,
            device,
        }
    }

    /// Augments from now on as these settings say.
    pub(super) fn set_augment(&mut self, augment: Augment) {
        self.augment = augment;
    }

    /// Steps of an epoch.
    pub(super) fn steps_of_epoch(&self, settings: &Settings) -> u64 {
        (self.trained.len() / settings.train.samples_of_step()) as u64
    }

    /// Before a folder is made: the trainer would refuse the same, and leave it behind.
    pub(super) fn check(&self, settings: &Settings) -> Result<()> {
        let (samples, batch_size) = (self.trained.len(), settings.train.samples_of_step());
        if samples < batch_size {
            return Err(vit_train::Error::NoBatch { batch_size, samples }.into());
        }
        if self.augment.mixes() && !self.device.is_cpu() {
            return Err(vit_train::Error::MixedOnGpu.into());
        }
        if settings.val_split > 0.0 && self.trained.len() == self.examples.len() {
            let (share, images) = (settings.val_split, self.examples.len());
            let message =
                format!("expected val_split to hold out an image, got {share} of {images}");
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(())
    }

    fn batch(&self, examples: &Examples, indices: &[u32]) -> candle_core::Result<Batch> {
        let (images, labels) = examples.batch(indices, &self.device, DType::F32)?;
        Ok(Batch::new(images, labels))
    }
}

/// As the trainer takes it.
pub(crate) fn batch_of(augmented: Augmented) -> Batch {
    let Augmented { images, labels, mixed } = augmented;
    let mixed = mixed.into_iter().flat_map(|vit_data::Mixed { labels, shares }| [labels, shares]);
    Batch::with_targets(images, [labels].into_iter().chain(mixed).collect())
}

impl Data for Images {
    fn order(&self, epoch: u64) -> Vec<u32> {
        let order = self.order.epoch(self.trained.len(), epoch);
        order.into_iter().map(|index| self.trained[index as usize]).collect()
    }

    fn train_batch(&self, epoch: u64, indices: &[u32]) -> candle_core::Result<Batch> {
        let Self { examples, trained, augment, device, .. } = self;
        let at = (self.seed, epoch);
        let augmented =
            examples.augmented_batch(indices, trained, augment, at, device, DType::F32)?;
        Ok(batch_of(augmented))
    }

    fn train_bytes(&self) -> Option<Bytes> {
        if !self.augment.is_none() {
            return None;
        }
        let (pixels, table) = self.examples.bytes()?;
        Some(Bytes {
            pixels: pixels.clone(),
            labels: Tensor::new(self.examples.labels(), &Device::Cpu).ok()?,
            table,
            shape: self.examples.shape(),
        })
    }

    fn val_len(&self) -> usize {
        self.held_out.len()
    }

    fn val_batch(&self, indices: &[u32]) -> candle_core::Result<Batch> {
        let indices: Vec<u32> =
            indices.iter().map(|&index| self.held_out[index as usize]).collect();
        self.batch(&self.validation, &indices)
    }

    fn test_len(&self) -> usize {
        self.test.len()
    }

    fn test_batch(&self, indices: &[u32]) -> candle_core::Result<Batch> {
        self.batch(&self.test, indices)
    }
}
