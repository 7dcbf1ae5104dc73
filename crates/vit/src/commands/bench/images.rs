//! Images for benchmarks.

use candle_core::{DType, Device};
use vit_data::{Augment, Examples, Split};
use vit_model::VitConfig;
use vit_patch::ImageSize;
use vit_train::Batch;

use crate::commands::train::batch_of;
use crate::dataset::{self, DataArgs, Wanted};
use crate::failure::{Exit, Failure, Result};

/// Help on noise images.
pub(super) const NOISE: &str = "\
Without --dataset, it uses images of noise in the model's size.";

/// Limit in bytes, one for each value; no benchmark needs more.
const MOST_NOISE: usize = 4_000_000_000;

/// A dataset's images, or noise in the model's image size with the same interface.
pub(super) struct Images {
    pub(super) name: String,
    examples: Examples,
}

impl Images {
    /// Loads the given split of the dataset, else makes `count` images of noise.
    ///
    /// # Errors
    /// If the dataset cannot be loaded, or does not suit the model.
    pub(super) fn load(
        args: &DataArgs,
        split: Split,
        noise: usize,
        config: &VitConfig,
    ) -> Result<Self> {
        let Some(name) = &args.dataset else { return Self::noise(noise, config) };
        let found = dataset::named(name, &args.place, &mut Wanted::by(config))?;
        let examples = found.dataset.split(split);
        Ok(Self { name: found.to_string(), examples })
    }

    /// Makes `count` images of noise.
    ///
    /// # Errors
    /// If they exceed the limit.
    pub(super) fn noise(count: usize, config: &VitConfig) -> Result<Self> {
        let size = config.image;
        let bytes = [size.channels, size.height, size.width];
        let bytes = bytes.into_iter().fold(count, usize::saturating_mul);
        if bytes > MOST_NOISE {
            let ImageSize { height, width, channels } = size;
            let message = format!(
                "expected at most {MOST_NOISE} bytes of noise, got {count} images of \
                 {height}x{width} px with {channels} channels"
            );
            return Err(Failure::new(Exit::Usage, message)
                .hint("pass a smaller --batch-size, or fewer --images"));
        }
        let examples =
            vit_data::noise(count, (size.channels, size.height, size.width), config.classes)?;
        Ok(Self { name: "noise".to_owned(), examples })
    }

    pub(super) fn len(&self) -> usize {
        self.examples.len()
    }

    /// The images with these indices.
    ///
    /// # Errors
    /// If an index is out of range.
    pub(super) fn batch(&self, indices: &[u32]) -> candle_core::Result<Batch> {
        self.augmented_batch(indices, &[], &Augment::default(), (0, 0))
    }

    /// The augmented images with these indices; `among` are possible partners for mixing.
    ///
    /// # Errors
    /// If an index is out of range.
    pub(super) fn augmented_batch(
        &self,
        indices: &[u32],
        among: &[u32],
        augment: &Augment,
        at: (u64, u64),
    ) -> candle_core::Result<Batch> {
        let augmented =
            self.examples.augmented_batch(indices, among, augment, at, &Device::Cpu, DType::F32)?;
        Ok(batch_of(augmented))
    }
}
