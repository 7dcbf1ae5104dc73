//! One set of images with labels, and the batches made from it.

use std::io::{self, Write};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor, bail};

use crate::augment::{Augment, Augmenter, Partner, Source};
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

/// Some images as an [`Augment`] makes them.
#[derive(Clone, Debug)]
pub struct Augmented {
    /// (batch, channels, height, width)
    pub images: Tensor,
    /// u32 (batch)
    pub labels: Tensor,
    /// What else is in the images, if they are mixed.
    pub mixed: Option<Mixed>,
}

/// What images are mixed with.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// The other image's label: u32 (batch)
    pub labels: Tensor,
    /// How much of the mean the other image is: f32 (batch)
    pub shares: Tensor,
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
        let len = self.height * self.width;
        let images = self.images_of(indices, device, dtype, |place, pixels, out| {
            out.extend(normalised(&pixels[indices[place] as usize * len..][..len]));
        })?;
        Ok((images, self.labels_of(indices, device)?))
    }

    /// The same, each image changed as `augment` says for its index in this epoch of a run with this seed,
    /// `run` being (seed, epoch); what it may be mixed with is `among` these. Where `augment` is none, the same bits as
    /// [`batch`](Self::batch).
    ///
    /// # Errors
    /// As [`batch`](Self::batch), and if images are to be mixed with others and `among` is empty.
    pub fn augmented_batch(
        &self,
        indices: &[u32],
        among: &[u32],
        augment: &Augment,
        run: (u64, u64),
        device: &Device,
        dtype: DType,
    ) -> candle_core::Result<Augmented> {
        if augment.is_none() {
            let (images, labels) = self.batch(indices, device, dtype)?;
            return Ok(Augmented { images, labels, mixed: None });
        }
        if augment.mixup > 0.0 && among.is_empty() {
            bail!("expected images to mix with, got none");
        }
        let mut augmenter = Augmenter::new(augment, run, &NORMALISED, (self.height, self.width));
        let partner = |&index| augmenter.partner(index, among);
        let partners: Option<Vec<Partner>> =
            (augment.mixup > 0.0).then(|| indices.iter().map(partner).collect());
        let others = partners.iter().flatten().map(|partner| partner.index).collect::<Vec<_>>();
        let mixed = partners.as_ref().map(|partners| {
            let shares = partners.iter().map(|partner| partner.share).collect::<Vec<_>>();
            let labels = self.labels_of(&others, device)?;
            Ok::<_, candle_core::Error>(Mixed { labels, shares: Tensor::new(shares, device)? })
        });
        let len = self.height * self.width;
        let images = self.images_of(indices, device, dtype, |place, pixels, out| {
            let image = |index: u32| &pixels[index as usize * len..][..len];
            let mut source = Source::of(image(indices[place]));
            if let Some(partners) = &partners {
                let Partner { index, share } = partners[place];
                source = source.mixed(image(index), share);
            }
            augmenter.append(source, indices[place], out);
        })?;
        Ok(Augmented {
            images,
            labels: self.labels_of(indices, device)?,
            mixed: mixed.transpose()?,
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

    /// The values that `append` makes of each place in the batch and of the bytes of all images.
    fn images_of(
        &self,
        indices: &[u32],
        device: &Device,
        dtype: DType,
        mut append: impl FnMut(usize, &[u8], &mut Vec<f32>),
    ) -> candle_core::Result<Tensor> {
        self.check(indices)?;
        let batch = indices.len();
        let images: Vec<f32> = with_bytes(&self.images, |pixels| {
            let mut images = Vec::with_capacity(batch * self.height * self.width);
            (0..batch).for_each(|place| append(place, pixels, &mut images));
            images
        });
        let shape = (batch, Self::CHANNELS, self.height, self.width);
        Tensor::from_vec(images, shape, device)?.to_dtype(dtype)
    }

    fn labels_of(&self, indices: &[u32], device: &Device) -> candle_core::Result<Tensor> {
        self.check(indices)?;
        let labels: Vec<u32> = with_bytes(&self.labels, |labels| {
            indices.iter().map(|&index| u32::from(labels[index as usize])).collect()
        });
        Tensor::from_vec(labels, indices.len(), device)
    }

    fn check(&self, indices: &[u32]) -> candle_core::Result<()> {
        let count = self.len();
        match indices.iter().find(|&&index| index as usize >= count) {
            Some(index) => bail!("expected indices below {count}, got {index}"),
            None => Ok(()),
        }
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
        five_of((0..30).collect())
    }

    fn five_of(pixels: Vec<u8>) -> Examples {
        let train = (pixels, vec![9, 8, 7, 6, 5]);
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

    const ALL: [u32; 5] = [0, 1, 2, 3, 4];

    fn augmented_among(
        indices: &[u32],
        among: &[u32],
        augment: &Augment,
        epoch: u64,
    ) -> candle_core::Result<Augmented> {
        five().augmented_batch(indices, among, augment, (1, epoch), &Device::Cpu, DType::F32)
    }

    fn augmented(indices: &[u32], augment: &Augment, epoch: u64) -> Vec<Vec<f32>> {
        let batch = augmented_among(indices, &ALL, augment, epoch).unwrap();
        batch.images.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn an_augmented_image_does_not_depend_on_its_batch_or_thread() {
        for mixup in [0.0, 1.0] {
            let augment = Augment { rotation: 20.0, elastic: 1.0, mixup, ..Augment::default() };
            let all = augmented(&ALL, &augment, 1);
            assert_eq!(augmented(&[3, 1], &augment, 1), [all[3].clone(), all[1].clone()]);
            let elsewhere = std::thread::spawn(move || augmented(&[4], &augment, 1));
            assert_eq!(elsewhere.join().unwrap()[0], all[4]);
            assert_ne!(augmented(&ALL, &augment, 2), all);
        }
    }

    #[test]
    fn a_mixed_image_is_the_mean_of_two_that_are_changed_alike() {
        let plain = Augment { rotation: 20.0, elastic: 1.0, erase: 0.5, ..Augment::default() };
        let changed = |examples: Examples, index: usize| {
            let run = (1, 1);
            let indices = [index as u32];
            let batch =
                examples.augmented_batch(&indices, &ALL, &plain, run, &Device::Cpu, DType::F32);
            batch.unwrap().images.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let among = [1, 3];
        let batch = augmented_among(&ALL, &among, &Augment { mixup: 0.8, ..plain }, 1).unwrap();
        let images = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(batch.labels.to_vec1::<u32>().unwrap(), [9, 8, 7, 6, 5]);
        let Mixed { labels, shares } = batch.mixed.expect("mixed images");
        let (labels, shares) = (labels.to_vec1::<u32>().unwrap(), shares.to_vec1::<f32>().unwrap());
        for (index, (&label, share)) in labels.iter().zip(shares).enumerate() {
            let other = 9 - label;
            assert!(among.contains(&other), "{other}");
            let image = changed(five(), index);
            let other = changed(
                five_of((0..5).flat_map(|_| five().image(other as usize)).collect()),
                index,
            );
            for ((got, x), y) in images[index].iter().zip(image).zip(other) {
                assert!((got - ((1.0 - share) * x + share * y)).abs() < 1e-6, "{got}");
            }
        }
        assert!(labels.contains(&8) && labels.contains(&6), "{labels:?}");
        let error = augmented_among(&ALL, &[], &Augment { mixup: 0.8, ..plain }, 1).unwrap_err();
        assert!(error.to_string().contains("expected images to mix with"), "{error}");
        assert!(augmented_among(&ALL, &[], &plain, 1).unwrap().mixed.is_none());
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
