//! Labelled images, and batches of them.

use std::io::{self, Write};
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor, bail};
use vit_pictures::{EvalView, Interpolation};

use crate::augment::{Augment, Augmenter, Partner, Source};
use crate::error::Result;
use crate::idx;
use crate::normalization::{HALF, HALF_FOR_EVER, Table};
use crate::pictures::{self, Pictures};

/// A split's labelled images, normalised batch by batch.
///
/// Clones share the memory; any number of threads may make batches at once.
#[derive(Clone, Debug)]
pub struct Examples {
    images: Images,
    labels: Arc<[u32]>,
    /// Channels, height and width.
    shape: (usize, usize, usize),
    /// Normalised value of each byte, one table per channel.
    tables: Arc<[Table]>,
}

/// Storage of the images.
#[derive(Clone, Debug)]
enum Images {
    /// u8 (count, `channels * height * width`), contiguous, on the CPU
    InMemory(Tensor),
    /// Read one by one, by index.
    OnDisk(Arc<Pictures>),
}

/// Which view of an image to read.
#[derive(Clone, Copy)]
enum View<'a> {
    /// The evaluation view.
    Evaluated,
    /// The training view of this (seed, epoch).
    Trained(&'a Augment, (u64, u64)),
}

/// A batch of augmented images.
#[derive(Clone, Debug)]
pub struct Augmented {
    /// (batch, channels, height, width)
    pub images: Tensor,
    /// u32 (batch)
    pub labels: Tensor,
    /// The partners, if images are mixed.
    pub mixed: Option<Mixed>,
}

/// The other images of a mixed batch.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// The other image's label: u32 (batch)
    pub labels: Tensor,
    /// Weight of the other image: f32 (batch)
    pub shares: Tensor,
}

impl Examples {
    /// From tensors checked by [`Dataset::new`](crate::Dataset::new).
    pub(crate) fn new(images: Tensor, labels: Arc<[u32]>, shape: (usize, usize, usize)) -> Self {
        let images = Images::InMemory(images);
        Self { images, labels, shape, tables: vec![HALF; shape.0].into() }
    }

    /// From bytes, image by image, channel by channel and row by row.
    pub(crate) fn of_bytes(
        pixels: Vec<u8>,
        labels: Vec<u32>,
        shape @ (channels, height, width): (usize, usize, usize),
    ) -> Result<Self> {
        let images =
            Tensor::from_vec(pixels, (labels.len(), channels * height * width), &Device::Cpu)?;
        Ok(Self::new(images, labels.into(), shape))
    }

    /// From pictures that are read one by one.
    pub(crate) fn of_pictures(
        pictures: Pictures,
        labels: Vec<u32>,
        shape: (usize, usize, usize),
    ) -> Self {
        let images = Images::OnDisk(Arc::new(pictures));
        Self { images, labels: labels.into(), shape, tables: vec![HALF; shape.0].into() }
    }

    /// An empty set of images of this shape.
    pub(crate) fn none(shape: (usize, usize, usize)) -> Result<Self> {
        Self::of_bytes(Vec::new(), Vec::new(), shape)
    }

    pub(crate) fn with_tables(self, tables: Arc<[Table]>) -> Self {
        Self { tables, ..self }
    }

    pub(crate) const fn is_in_memory(&self) -> bool {
        matches!(self.images, Images::InMemory(_))
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The label of image `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[must_use]
    pub fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    /// The label of each image.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Channels, height and width of an image.
    #[must_use]
    pub const fn shape(&self) -> (usize, usize, usize) {
        self.shape
    }

    /// The bytes of image `index` in its evaluation view, channel by channel and row by row; 0 is black.
    ///
    /// # Errors
    /// If the image cannot be read.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn image(&self, index: usize) -> candle_core::Result<Vec<u8>> {
        self.with_image(index as u32, View::Evaluated, <[u8]>::to_vec)
    }

    const fn image_len(&self) -> usize {
        self.shape.0 * self.shape.1 * self.shape.2
    }

    /// The images with these indices, in this order, in their evaluation view, with labels. They are normalised, by
    /// default to `(x / 255 - 0.5) / 0.5`.
    ///
    /// Values are computed in f32, then converted to `dtype`. PyTorch equivalent: `ToTensor()`, then `Normalize((0.5,),
    /// (0.5,))`, bit for bit.
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
        let images = self.images_of(indices, device, dtype, |place, out| {
            self.with_image(indices[place], View::Evaluated, |image| {
                for (bytes, table) in image.chunks_exact(self.plane_len()).zip(&*self.tables) {
                    out.extend(bytes.iter().map(|&byte| table[usize::from(byte)]));
                }
            })
        })?;
        Ok((images, self.labels_of(indices, device)?))
    }

    /// Like [`batch`](Self::batch), with `augment` applied. `run` is (seed, epoch); `among` are the indices of possible
    /// partners for mixing. With default `augment` the result is bit-identical to [`batch`](Self::batch).
    ///
    /// # Errors
    /// Same as [`batch`](Self::batch), and if images are mixed and `among` is empty.
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
        let (_, height, width) = self.shape;
        let mut augmenter = Augmenter::new(augment, run, &self.tables, (height, width));
        if augment.mixes() && among.is_empty() {
            bail!("expected images to mix with, got none");
        }
        let partner = |&index| augmenter.partner(index, among);
        let partners: Option<Vec<Partner>> =
            augment.mixes().then(|| indices.iter().map(partner).collect());
        let others = partners.iter().flatten().map(|partner| partner.index).collect::<Vec<_>>();
        let mixed = partners.as_ref().map(|partners| {
            let shares = partners.iter().map(|partner| partner.share).collect::<Vec<_>>();
            let labels = self.labels_of(&others, device)?;
            Ok::<_, candle_core::Error>(Mixed { labels, shares: Tensor::new(shares, device)? })
        });
        let view = View::Trained(augment, run);
        let images = self.images_of(indices, device, dtype, |place, out| {
            let index = indices[place];
            self.with_image(index, view, |image| match &partners {
                None => {
                    augmenter.append(Source::of(image), index, out);
                    Ok(())
                }
                Some(partners) => {
                    let partner = &partners[place];
                    self.with_image(partner.index, view, |other| match &partner.cut {
                        None => {
                            let source = Source::of(image).mixed(other, partner.share);
                            augmenter.append(source, index, out);
                        }
                        Some(cut) => {
                            let mut image = image.to_vec();
                            cut.paste(other, &mut image, self.plane_len());
                            augmenter.append(Source::of(&image), index, out);
                        }
                    })
                }
            })?
        })?;
        Ok(Augmented {
            images,
            labels: self.labels_of(indices, device)?,
            mixed: mixed.transpose()?,
        })
    }

    /// All images, u8 (count, `channels * height * width`), with their normalisation table. `None` unless they are in
    /// memory and one table serves all channels.
    #[must_use]
    pub fn bytes(&self) -> Option<(&Tensor, &'static [f32; 256])> {
        let Images::InMemory(images) = &self.images else { return None };
        self.tables.iter().all(|table| *table == HALF).then_some((images, &HALF_FOR_EVER))
    }

    /// A batch of the values that `append` writes for each index.
    fn images_of(
        &self,
        indices: &[u32],
        device: &Device,
        dtype: DType,
        mut append: impl FnMut(usize, &mut Vec<f32>) -> candle_core::Result<()>,
    ) -> candle_core::Result<Tensor> {
        self.check(indices)?;
        let batch = indices.len();
        let mut images = Vec::with_capacity(batch * self.image_len());
        (0..batch).try_for_each(|place| append(place, &mut images))?;
        let (channels, height, width) = self.shape;
        Tensor::from_vec(images, (batch, channels, height, width), device)?.to_dtype(dtype)
    }

    /// Calls `read` with an image's bytes, channel by channel and row by row.
    fn with_image<T>(
        &self,
        index: u32,
        view: View<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> candle_core::Result<T> {
        let in_memory = match &self.images {
            Images::InMemory(images) => images,
            Images::OnDisk(on_disk) => {
                let picture = on_disk.get(index)?;
                let seen = match view {
                    View::Evaluated => on_disk.eval().apply(&picture),
                    View::Trained(augment, run) => {
                        pictures::trained(&picture, on_disk.eval(), augment, run, index)
                    }
                };
                return Ok(read(&pictures::planes(&seen)));
            }
        };
        let len = self.image_len();
        with_bytes(in_memory, |pixels| {
            let image = &pixels[index as usize * len..][..len];
            let View::Trained(augment, run) = view else { return Ok(read(image)) };
            if !augment.views() {
                return Ok(read(image));
            }
            let picture = pictures::of_planes(image, self.shape);
            let (_, height, width) = self.shape;
            let (crop, interpolation) = ((height, width), Interpolation::Bicubic);
            let eval = EvalView { resize: height.min(width), crop, interpolation };
            Ok(read(&pictures::planes(&pictures::trained(&picture, eval, augment, run, index))))
        })
    }

    fn labels_of(&self, indices: &[u32], device: &Device) -> candle_core::Result<Tensor> {
        self.check(indices)?;
        let labels = indices.iter().map(|&index| self.labels[index as usize]);
        Tensor::from_vec(labels.collect::<Vec<_>>(), indices.len(), device)
    }

    fn check(&self, indices: &[u32]) -> candle_core::Result<()> {
        let count = self.len();
        match indices.iter().find(|&&index| index as usize >= count) {
            Some(index) => bail!("expected indices below {count}, got {index}"),
            None => Ok(()),
        }
    }

    const fn plane_len(&self) -> usize {
        self.shape.1 * self.shape.2
    }

    /// # Errors
    /// If `out` fails.
    pub(crate) fn write_images(&self, out: &mut dyn Write) -> io::Result<()> {
        let (_, height, width) = self.shape;
        let dims = (self.len(), height, width);
        match &self.images {
            Images::InMemory(images) => {
                with_bytes(images, |pixels| idx::write_images(out, dims, pixels))
            }
            Images::OnDisk(_) => Err(io::Error::other("expected images in memory")),
        }
    }

    /// Writes what identifies the images.
    pub(crate) fn write_content(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.images {
            Images::InMemory(images) => with_bytes(images, |pixels| out.write_all(pixels)),
            Images::OnDisk(pictures) => pictures.write_content(out),
        }
    }

    /// # Errors
    /// If `out` fails.
    pub(crate) fn write_labels(&self, out: &mut dyn Write) -> io::Result<()> {
        let labels: Vec<u8> = self.labels.iter().map(|&label| label as u8).collect();
        idx::write_labels(out, &labels)
    }
}

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
    use crate::dataset::numbered;
    use crate::{Dataset, Split};

    /// Five images of 2x3 px: image `i` has bytes `6 i .. 6 i + 6` and label `9 - i`.
    fn five() -> Examples {
        five_of((0..30).collect())
    }

    fn five_of(pixels: Vec<u8>) -> Examples {
        let train = (pixels, vec![9, 8, 7, 6, 5]);
        let test = (vec![0; 6], vec![0]);
        let dataset = Dataset::from_bytes("five", numbered(10), [train, test], (1, 2, 3));
        dataset.unwrap().split(Split::Train)
    }

    #[test]
    fn batches_hold_the_requested_images_in_order() {
        let (images, labels) = five().batch(&[3, 0, 3], &Device::Cpu, DType::F32).unwrap();
        assert_eq!(images.dims(), [3, 1, 2, 3]);
        assert_eq!(labels.to_vec1::<u32>().unwrap(), [6, 9, 6]);
        let pixels = images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = [18, 19, 20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 18, 19, 20, 21, 22, 23];
        assert_eq!(pixels, expected.map(|pixel| (pixel as f32 / 255.0 - 0.5) / 0.5));
    }

    #[test]
    fn single_images_are_bytes() {
        let five = five();
        assert_eq!(five.len(), 5);
        assert_eq!(five.label(4), 5);
        assert_eq!(five.image(4).unwrap(), [24, 25, 26, 27, 28, 29]);
    }

    #[test]
    fn other_dtypes_hold_the_same_values() {
        let (images, _) = five().batch(&[1], &Device::Cpu, DType::F64).unwrap();
        let value = images.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
        assert_eq!(value, f64::from(HALF[6]));
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
    fn a_mixed_image_is_the_mean_of_two_with_the_same_augmentation() {
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
                five_of((0..5).flat_map(|_| five().image(other as usize).unwrap()).collect()),
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
    fn default_augmentation_changes_no_bit() {
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
    fn threads_share_one_copy() {
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
