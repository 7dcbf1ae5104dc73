//! Training and evaluation data.

use candle_core::{Result, Tensor, bail};

/// A batch: the model's inputs, and the targets for its outputs.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vit_train::Batch;
///
/// # fn main() -> candle_core::Result<()> {
/// let images = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let labels = Tensor::new(&[3_u32, 1000], &Device::Cpu)?;
/// let weights = Tensor::new(&[0.5_f32, 2.0], &Device::Cpu)?;
/// // One target, and a second one for a custom loss that weights samples.
/// let batch = Batch::new(images.clone(), labels.clone());
/// let weighed = Batch::with_targets(images, vec![labels, weights]);
/// assert_eq!((batch.targets.len(), weighed.targets.len()), (1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// (batch, ...)
    pub inputs: Tensor,
    /// Each (batch, ...). The [`Loss`](crate::Loss) defines their number and dtypes; for classification, `u32` labels
    /// (batch).
    pub targets: Vec<Tensor>,
}

impl Batch {
    /// Inputs with one target; for classification, `u32` labels.
    #[must_use]
    pub fn new(inputs: Tensor, target: Tensor) -> Self {
        Self::with_targets(inputs, vec![target])
    }

    /// Inputs with any number of targets.
    #[must_use]
    pub const fn with_targets(inputs: Tensor, targets: Vec<Tensor>) -> Self {
        Self { inputs, targets }
    }
}

/// Images of one byte a pixel that a GPU can keep: a batch is their bytes, mapped through a table.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// u8 (count, channels * height * width)
    pub pixels: Tensor,
    /// u32 (count)
    pub labels: Tensor,
    /// Normalised value of each byte.
    pub table: &'static [f32; 256],
    /// Channels, height and width.
    pub shape: (usize, usize, usize),
}

/// Training data: samples by index, and their order in each epoch.
///
/// ```
/// use candle_core::{Device, Result, Tensor};
/// use vit_train::{Batch, Data};
///
/// /// Regression: learns to double a number.
/// struct Doubles(Vec<f32>);
///
/// impl Doubles {
///     fn batch(&self, indices: &[u32]) -> Result<Batch> {
///         let xs: Vec<f32> = indices.iter().map(|&index| self.0[index as usize]).collect();
///         let xs = Tensor::from_vec(xs, (indices.len(), 1), &Device::Cpu)?;
///         let doubles = (&xs * 2.0)?;
///         Ok(Batch::new(xs, doubles))
///     }
/// }
///
/// impl Data for Doubles {
///     fn order(&self, _epoch: u64) -> Vec<u32> {
///         (0..self.0.len() as u32).collect()
///     }
///     fn train_batch(&self, _epoch: u64, indices: &[u32]) -> Result<Batch> {
///         self.batch(indices)
///     }
///     fn test_len(&self) -> usize {
///         self.0.len()
///     }
///     fn test_batch(&self, indices: &[u32]) -> Result<Batch> {
///         self.batch(indices)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let batch = Doubles(vec![1.0, 2.0, 3.0]).train_batch(1, &[2, 0])?;
/// assert_eq!(batch.targets[0].to_vec2::<f32>()?, [[6.0], [2.0]]);
/// # Ok(())
/// # }
/// ```
pub trait Data: Send + Sync {
    /// The training samples of an epoch (from 1), in order.
    fn order(&self, epoch: u64) -> Vec<u32>;

    /// Some training samples, augmented for this epoch (from 1).
    ///
    /// # Errors
    /// If a sample cannot be read.
    fn train_batch(&self, epoch: u64, indices: &[u32]) -> Result<Batch>;

    /// All training samples as bytes, if [`train_batch`](Self::train_batch) only normalises them.
    fn train_bytes(&self) -> Option<Bytes> {
        None
    }

    /// Number of validation samples, which are used to choose settings and the best epoch.
    fn val_len(&self) -> usize {
        0
    }

    /// Some validation samples.
    ///
    /// # Errors
    /// If a sample cannot be read.
    fn val_batch(&self, indices: &[u32]) -> Result<Batch> {
        bail!("expected no request for validation samples, got {}", indices.len())
    }

    /// Number of test samples.
    fn test_len(&self) -> usize;

    /// Some test samples.
    ///
    /// # Errors
    /// If a sample cannot be read.
    fn test_batch(&self, indices: &[u32]) -> Result<Batch>;
}
