//! Images that stay on the GPU, and batches made from them there.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::clock;
use super::launch::{Grid, device_of, held, kernel, tensor, uninit};

/// Images of one byte per pixel with labels and the normalised value of each byte.
#[derive(Clone, Debug)]
pub struct Examples {
    pixels: Tensor,
    labels: Tensor,
    table: Tensor,
    /// Channels, height and width.
    shape: (usize, usize, usize),
}

impl Examples {
    /// Copies the images `pixels` and their `labels` to the GPU.
    ///
    /// # Shapes
    /// `pixels` u8 (count, channels * height * width), `labels` u32 (count)
    ///
    /// # Errors
    /// If the shapes do not match, or the GPU is out of memory.
    pub fn new(
        (pixels, labels): (&Tensor, &Tensor),
        table: &[f32; 256],
        shape: (usize, usize, usize),
        device: &Device,
    ) -> Result<Self> {
        let (count, len) = pixels.dims2()?;
        let is_typed = pixels.dtype() == DType::U8 && labels.dtype() == DType::U32;
        if !is_typed || len != shape.0 * shape.1 * shape.2 || labels.dims() != [count] {
            bail!(
                "examples: expected bytes of {count} images of {shape:?} and labels of u32, got {:?} of {:?} and {:?} of {:?}",
                pixels.dims(),
                pixels.dtype(),
                labels.dims(),
                labels.dtype()
            );
        }
        Ok(Self {
            pixels: pixels.to_device(device)?.contiguous()?,
            labels: labels.to_device(device)?.contiguous()?,
            table: Tensor::new(table, device)?,
            shape,
        })
    }

    /// The number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A step's batch: the images that `order` lists from position `index * samples_of_step + first` on, and their
    /// labels.
    /// `index` comes from the [`Clock`](super::Clock) this runs under, or is 0.
    ///
    /// `order` is on the GPU and not validated: an index of [`len`](Self::len) or more gives an image of NaN.
    ///
    /// # Shapes
    /// `order` u32 (as long as needed) -> f32 (batch, channels, height, width), u32 (batch)
    ///
    /// # Errors
    /// If the GPU is out of memory.
    pub fn batch(
        &self,
        order: &Tensor,
        (first, batch): (usize, usize),
        samples_of_step: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (channels, height, width) = self.shape;
        let (device, len) = (device_of(order)?, channels * height * width);
        let (mut images, mut labels) =
            (uninit::<f32>(&device, batch * len)?, uninit::<u32>(&device, batch)?);
        kernel!(&device, ROWS, "gather")
            .read(&held(&self.pixels).elements::<u8>()?)
            .read(&held(&self.labels).elements::<u32>()?)
            .read(&held(order).elements::<u32>()?)
            .count(order.elem_count())
            .count(self.len())
            .read(&held(&self.table).elements::<f32>()?)
            .write(&mut images)
            .write(&mut labels)
            .count(first)
            .count(batch)
            .count(samples_of_step)
            .count(len)
            .pointer(clock::current())
            .launch(Grid::each(batch * len))?;
        let images = tensor(images, &device, (batch, channels, height, width));
        Ok((images, tensor(labels, &device, batch)))
    }
}
