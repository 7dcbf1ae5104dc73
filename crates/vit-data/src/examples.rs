//! One set of images with labels, and the batches made from it.

use std::io::{self, Write};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor, bail};

use crate::augment::{Augment, Augmenter};
use crate::idx;

/// A set of grey images with labels: bytes in memory, normalised a batch at a time.
///
/// Clones share the memory, and any number of threads may ask for batches at once.
#[derive(Clone, Debug)]
pub struct Examples {
    /// u8 (count, `height * width`), contiguous, on the CPU
    images: Tensor,
    /// u8 (count), contiguous, on the CPU
    labels: Tensor,
    height: usize,
    width: usize,
}

impl Examples {
    pub(crate) const CHANNELS: usize = 1;

    /// Of tensors that [`Dataset::new`](crate::Dataset::new) has checked.
    pub(crate) fn new(images: Tensor, labels: Tensor, (height, width): (usize, usize)) -> Self {
        Self { images, labels, height, width }
    }

    /// How many images there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of image `index`.
    ///
    /// # Panics
    /// If there are `index` images or fewer.
    #[must_use]
    pub fn label(&self, index: usize) -> u32 {
        with_bytes(&self.labels, |labels| u32::from(labels[index]))
    }

    /// The `height * width` bytes of image `index`, row by row; 0 is black.
    ///
    /// # Panics
    /// If there are `index` images or fewer.
    #[must_use]
    pub fn image(&self, index: usize) -> Vec<u8> {
        let len = self.height * self.width;
        with_bytes(&self.images, |pixels| pixels[index * len..][..len].to_vec())
    }

    /// The images of these indices, in this order, normalised to `(x / 255 - 0.5) / 0.5`, with
    /// their labels.
    ///
    /// Values are computed in f32 and then converted to `dtype`. PyTorch equivalent: `ToTensor()`,
    /// then `Normalize((0.5,), (0.5,))`, to the bit.
    ///
    /// # Shapes
    /// Images (batch, channels, height, width) of `dtype`, labels u32 (batch).
    ///
    /// # Errors
    /// If an index is not below [`len`](Self::len), or if the device fails.
    pub fn batch(
        &self,
        indices: &[u32],
        device: &Device,
        dtype: DType,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        self.batch_of(indices, device, dtype, |_, image, out| out.extend(normalised(image)))
    }

    /// The same, each image changed as `augment` says for its index in this epoch of a run with this seed:
    /// `(seed, epoch)`. Where `augment` is none, the same bits as [`batch`](Self::batch).
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub fn augmented_batch(
        &self,
        indices: &[u32],
        augment: &Augment,
        (seed, epoch): (u64, u64),
        device: &Device,
        dtype: DType,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        if augment.is_none() {
            return self.batch(indices, device, dtype);
        }
        let mut augmenter = Augmenter::new(augment, seed, epoch, (self.height, self.width));
        let mut values = Vec::with_capacity(self.height * self.width);
        self.batch_of(indices, device, dtype, |index, image, out| {
            values.clear();
            values.extend(normalised(image));
            augmenter.append(&values, index, NORMALISED[0], out);
        })
    }

    /// All images, u8 (count, `height * width`), and their labels, u8 (count); of the former, a batch holds each byte
    /// through [`normalisation`](Self::normalisation).
    #[must_use]
    pub const fn bytes(&self) -> (&Tensor, &Tensor) {
        (&self.images, &self.labels)
    }

    /// Channels, height and width of an image.
    #[must_use]
    pub const fn shape(&self) -> (usize, usize, usize) {
        (Self::CHANNELS, self.height, self.width)
    }

    /// What each byte is normalised to.
    #[must_use]
    pub const fn normalisation() -> &'static [f32; 256] {
        &NORMALISED
    }

    /// A batch of the values that `append` makes of each image's index and bytes.
    fn batch_of(
        &self,
        indices: &[u32],
        device: &Device,
        dtype: DType,
        mut append: impl FnMut(u32, &[u8], &mut Vec<f32>),
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, count, len) = (indices.len(), self.len(), self.height * self.width);
        if let Some(index) = indices.iter().find(|&&index| index as usize >= count) {
            bail!("expected indices below {count}, got {index}");
        }
        let images: Vec<f32> = with_bytes(&self.images, |pixels| {
            let mut images = Vec::with_capacity(batch * len);
            for &index in indices {
                let image = &pixels[index as usize * len..][..len];
                append(index, image, &mut images);
            }
            images
        });
        let labels: Vec<u32> = with_bytes(&self.labels, |labels| {
            indices.iter().map(|&index| u32::from(labels[index as usize])).collect()
        });
        let shape = (batch, Self::CHANNELS, self.height, self.width);
        let images = Tensor::from_vec(images, shape, device)?.to_dtype(dtype)?;
        let labels = Tensor::from_vec(labels, batch, device)?;
        Ok((images, labels))
    }

    pub(crate) fn write_images(&self, out: &mut dyn Write) -> io::Result<()> {
        let dims = (self.len(), self.height, self.width);
        with_bytes(&self.images, |pixels| idx::write_images(out, dims, pixels))
    }

    pub(crate) fn write_labels(&self, out: &mut dyn Write) -> io::Result<()> {
        with_bytes(&self.labels, |labels| idx::write_labels(out, labels))
    }
}

/// What each byte is normalised to. The table is exact: dividing costs more and gives the same.
static NORMALISED: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut pixel = 0;
    while pixel < table.len() {
        table[pixel] = (pixel as f32 / 255.0 - 0.5) / 0.5;
        pixel += 1;
    }
    table
};

/// The values that the model sees.
fn normalised(image: &[u8]) -> impl Iterator<Item = f32> {
    image.iter().map(|&pixel| NORMALISED[usize::from(pixel)])
}

/// Gives `read` the bytes of a tensor that `Dataset::new` has checked.
fn with_bytes<T>(tensor: &Tensor, read: impl FnOnce(&[u8]) -> T) -> T {
    let (storage, layout) = tensor.storage_and_layout();
    let (begin, end) = layout.contiguous_offsets().expect("checked to be contiguous");
    match &*storage {
        Storage::Cpu(CpuStorage::U8(bytes)) => read(&bytes[begin..end]),
        _ => unreachable!("checked to be bytes on the CPU"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, Split};
    use sha2::{Digest, Sha256};

    /// Five images of 2x3 px: image `i` holds `6 i .. 6 i + 6`, its label is `9 - i`.
    fn five() -> Examples {
        let train = ((0..30).collect(), vec![9, 8, 7, 6, 5]);
        let test = (vec![0; 6], vec![0]);
        Dataset::from_bytes("five", [train, test], (2, 3)).unwrap().split(Split::Train)
    }

    #[test]
    fn batches_hold_the_asked_samples_in_order() {
        let (images, labels) = five().batch(&[3, 0, 3], &Device::Cpu, DType::F32).unwrap();
        assert_eq!(images.dims(), [3, 1, 2, 3]);
        assert_eq!(labels.to_vec1::<u32>().unwrap(), [6, 9, 6]);
        let pixels = images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = [18, 19, 20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 18, 19, 20, 21, 22, 23];
        assert_eq!(pixels, expected.map(|pixel| (pixel as f32 / 255.0 - 0.5) / 0.5));
    }

    /// The hash is of what PyTorch 2.15 gives:
    /// `torch.arange(256).float().div(255).sub(torch.tensor(0.5)).div(torch.tensor(0.5))`.
    #[test]
    fn normalised_values_are_those_of_pytorch() {
        let bytes: Vec<u8> = NORMALISED.iter().flat_map(|value| value.to_le_bytes()).collect();
        let hash = Sha256::digest(bytes);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "d15e8ce72284446496a6de66e8a4795818530b44cd2c3dd415077364535c3c1a");
    }

    #[test]
    fn single_examples_are_bytes() {
        let five = five();
        assert_eq!(five.len(), 5);
        assert_eq!(five.label(4), 5);
        assert_eq!(five.image(4), [24, 25, 26, 27, 28, 29]);
    }

    #[test]
    fn other_types_hold_the_same_values() {
        let (images, _) = five().batch(&[1], &Device::Cpu, DType::F64).unwrap();
        let value = images.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
        assert_eq!(value, f64::from(NORMALISED[6]));
    }

    fn augmented(indices: &[u32], augment: &Augment, epoch: u64) -> Vec<Vec<f32>> {
        let batch = five().augmented_batch(indices, augment, (1, epoch), &Device::Cpu, DType::F32);
        batch.unwrap().0.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn an_augmented_image_does_not_depend_on_its_batch_or_thread() {
        let augment = Augment { rotation: 20.0, elastic: 1.0, ..Augment::default() };
        let all = augmented(&[0, 1, 2, 3, 4], &augment, 1);
        assert_eq!(augmented(&[3, 1], &augment, 1), [all[3].clone(), all[1].clone()]);
        let elsewhere = std::thread::spawn(move || augmented(&[4], &augment, 1)).join().unwrap();
        assert_eq!(elsewhere[0], all[4]);
        assert_ne!(augmented(&[0, 1, 2, 3, 4], &augment, 2), all);
    }

    #[test]
    fn augmentation_of_no_strength_gives_the_same_bits() {
        let (images, _) = five().batch(&[3, 0], &Device::Cpu, DType::F32).unwrap();
        let images = images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(augmented(&[3, 0], &Augment::default(), 1), images);
    }

    #[test]
    fn an_empty_batch_has_its_shape() {
        let (images, labels) = five().batch(&[], &Device::Cpu, DType::F32).unwrap();
        assert_eq!((images.dims(), labels.dims()), (&[0, 1, 2, 3][..], &[0][..]));
    }

    #[test]
    fn an_index_out_of_range_is_an_error() {
        let error = five().batch(&[4, 5], &Device::Cpu, DType::F32).unwrap_err();
        assert!(error.to_string().contains("expected indices below 5, got 5"), "{error}");
    }

    #[test]
    fn threads_share_one_set() {
        let five = five();
        std::thread::scope(|scope| {
            let batches: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| five.batch(&[2], &Device::Cpu, DType::F32).unwrap().1))
                .collect();
            for labels in batches {
                assert_eq!(labels.join().unwrap().to_vec1::<u32>().unwrap(), [7]);
            }
        });
    }
}
