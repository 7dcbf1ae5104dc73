//! The training, validation and test images of a run.

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use vit_data::{Augment, Augmented, Examples, Order, Split, hold_out};
use vit_layers::Mode;
use vit_model::VisionTransformer;
use vit_train::{Batch, Bytes, Data, EVALUATION_BATCH};

use crate::dataset::Found;
use crate::failure::{Exit, Failure, Result};
use crate::output::thousands;
use crate::progress::Counter;
use crate::settings::Settings;

/// Images whose features are computed together on the CPU: with more, a large model's activations leave its cache.
const FEATURE_BATCH: usize = 16;

/// Images, or their features if only the head is trained.
struct Part {
    examples: Examples,
    /// (images, dim)
    features: Option<Tensor>,
}

impl Part {
    const fn new(examples: Examples) -> Self {
        Self { examples, features: None }
    }

    fn batch(&self, indices: &[u32], device: &Device) -> TensorResult<Batch> {
        let Some(features) = &self.features else {
            let (images, labels) = self.examples.batch(indices, device, DType::F32)?;
            return Ok(Batch::new(images, labels));
        };
        let labels = self.examples.labels();
        let labels: Vec<u32> = indices.iter().map(|&index| labels[index as usize]).collect();
        let indices = Tensor::new(indices, device)?;
        Ok(Batch::new(features.index_select(&indices, 0)?, Tensor::new(labels, device)?))
    }

    /// Computes the head's input for each image.
    fn cache(&mut self, model: &VisionTransformer, device: &Device, count: &Counter) -> Result<()> {
        let all: Vec<u32> = (0..self.examples.len() as u32).collect();
        let together = if device.is_cpu() { FEATURE_BATCH } else { EVALUATION_BATCH };
        let mut features = Vec::new();
        for indices in all.chunks(together) {
            let (images, _) = self.examples.batch(indices, device, DType::F32)?;
            features.push(model.forward_pooled(&images, Mode::Eval)?);
            count.add(indices.len() as u64);
        }
        if !features.is_empty() {
            self.features = Some(Tensor::cat(&features, 0)?);
        }
        Ok(())
    }
}

/// The dataset in the trainer's interface.
pub(crate) struct Images {
    /// Some are trained on; the others may be held out.
    training: Part,
    trained: Vec<u32>,
    /// The dataset's own validation split; `None` if images are held out of the training split instead.
    validation: Option<Part>,
    held_out: Vec<u32>,
    test: Part,
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
            (None, held_out)
        } else {
            let all = (0..own.len() as u32).collect();
            (Some(Part::new(own)), all)
        };
        Self {
            training: Part::new(examples),
            trained,
            validation,
            held_out,
            test: Part::new(found.dataset.split(Split::Test)),
            order: if settings.shuffle { shuffled } else { Order::InOrder },
            augment: settings.augment,
            seed: settings.train.seed,
            device,
        }
    }

    /// Changes the augmentation from now on.
    pub(super) fn set_augment(&mut self, augment: Augment) {
        self.augment = augment;
    }

    /// Replaces every image by the head's input from a frozen model.
    ///
    /// # Errors
    /// If an image cannot be read, or the device's memory is full.
    pub(super) fn cache_features(&mut self, model: &VisionTransformer) -> Result<()> {
        let Self { training, validation, test, device, .. } = self;
        let parts = || [Some(&*training), validation.as_ref(), Some(&*test)].into_iter().flatten();
        let images: usize = parts().map(|part| part.examples.len()).sum();
        let count = Counter::new("features", Some(images as u64), thousands);
        let parts = [Some(training), validation.as_mut(), Some(test)];
        parts.into_iter().flatten().try_for_each(|part| part.cache(model, device, &count))
    }

    /// Steps in an epoch.
    pub(super) fn steps_of_epoch(&self, settings: &Settings) -> u64 {
        (self.trained.len() / settings.train.samples_of_step()) as u64
    }

    /// Checked before the run directory is created; the trainer would fail later and leave it behind.
    pub(super) fn check(&self, settings: &Settings) -> Result<()> {
        let (samples, batch_size) = (self.trained.len(), settings.train.samples_of_step());
        if samples < batch_size {
            return Err(vit_train::Error::NoBatch { batch_size, samples }.into());
        }
        if self.augment.mixes() && !self.device.is_cpu() {
            return Err(vit_train::Error::MixedOnGpu.into());
        }
        if settings.val_split > 0.0 && self.trained.len() == self.training.examples.len() {
            let (share, images) = (settings.val_split, self.training.examples.len());
            let message = format!(
                "expected val_split to hold out at least one image, got {share} of {images}"
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(())
    }
}

/// In the trainer's form.
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

    fn train_batch(&self, epoch: u64, indices: &[u32]) -> TensorResult<Batch> {
        let Self { training, trained, augment, device, .. } = self;
        if training.features.is_some() {
            return training.batch(indices, device);
        }
        let (examples, at) = (&training.examples, (self.seed, epoch));
        let augmented =
            examples.augmented_batch(indices, trained, augment, at, device, DType::F32)?;
        Ok(batch_of(augmented))
    }

    fn train_bytes(&self) -> Option<Bytes> {
        let Part { examples, features } = &self.training;
        if !self.augment.is_none() || features.is_some() {
            return None;
        }
        let (pixels, table) = examples.bytes()?;
        Some(Bytes {
            pixels: pixels.clone(),
            labels: Tensor::new(examples.labels(), &Device::Cpu).ok()?,
            table,
            shape: examples.shape(),
        })
    }

    fn val_len(&self) -> usize {
        self.held_out.len()
    }

    fn val_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        let indices: Vec<u32> =
            indices.iter().map(|&index| self.held_out[index as usize]).collect();
        self.validation.as_ref().unwrap_or(&self.training).batch(&indices, &self.device)
    }

    fn test_len(&self) -> usize {
        self.test.examples.len()
    }

    fn test_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        self.test.batch(indices, &self.device)
    }
}
