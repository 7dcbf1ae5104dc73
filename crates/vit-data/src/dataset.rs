//! A dataset in memory: candle-datasets' four tensors, as bytes, with what they are tensors of.

use std::fmt;
use std::io::{self, Write};

use candle_core::{DType, Device, Tensor};
use candle_datasets::vision;

use crate::error::{Error, Result};
use crate::examples::Examples;
use crate::idx::IdxFile;

/// The number of classes of MNIST and its like.
pub(crate) const CLASSES: usize = 10;

/// Which of a dataset's two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is only tested on.
    Test,
}

/// Grey images with labels, in a training and a test set, one byte a pixel.
pub struct Dataset {
    name: String,
    tensors: vision::Dataset,
    height: usize,
    width: usize,
}

impl Dataset {
    /// A dataset of the tensors that candle-datasets gives, but as bytes, on the CPU.
    ///
    /// # Shapes
    /// Images u8 (count, `height * width`), labels u8 (count), contiguous; the two sets may be of
    /// different counts. Labels are not looked at.
    ///
    /// # Errors
    /// [`Error::Tensors`] for any other type or shape.
    pub fn new(
        name: impl Into<String>,
        tensors: vision::Dataset,
        (height, width): (usize, usize),
    ) -> Result<Self> {
        let sets = [
            ("train_images", &tensors.train_images, "train_labels", &tensors.train_labels),
            ("test_images", &tensors.test_images, "test_labels", &tensors.test_labels),
        ];
        for (images_field, images, labels_field, labels) in sets {
            let count = images.dims().first().copied().unwrap_or(0);
            check(images_field, images, &[count, height * width])?;
            check(labels_field, labels, &[count])?;
        }
        Ok(Self { name: name.into(), tensors, height, width })
    }

    /// A dataset of plain bytes, each set's images and labels in turn.
    pub(crate) fn from_bytes(
        name: impl Into<String>,
        [train, test]: [(Vec<u8>, Vec<u8>); 2],
        (height, width): (usize, usize),
    ) -> Result<Self> {
        let images = |bytes| Tensor::from_vec(bytes, ((), height * width), &Device::Cpu);
        let labels = |bytes| Tensor::from_vec(bytes, ((),), &Device::Cpu);
        let tensors = vision::Dataset {
            train_images: images(train.0)?,
            train_labels: labels(train.1)?,
            test_images: images(test.0)?,
            test_labels: labels(test.1)?,
            labels: CLASSES,
        };
        Self::new(name, tensors, (height, width))
    }

    /// The same dataset under another name.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// What results call the dataset, such as `mnist`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows of an image.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of an image.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Values a pixel: 1, for grey.
    #[must_use]
    pub fn channels(&self) -> usize {
        Examples::CHANNELS
    }

    /// The number of classes; every label is below it.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.tensors.labels
    }

    /// candle-datasets' view: images u8 (count, `height * width`), labels u8 (count).
    #[must_use]
    pub fn tensors(&self) -> &vision::Dataset {
        &self.tensors
    }

    /// One of the two sets. It shares the dataset's memory, and may outlive the dataset.
    #[must_use]
    pub fn split(&self, split: Split) -> Examples {
        let (images, labels) = match split {
            Split::Train => (&self.tensors.train_images, &self.tensors.train_labels),
            Split::Test => (&self.tensors.test_images, &self.tensors.test_labels),
        };
        Examples::new(images.clone(), labels.clone(), (self.height, self.width))
    }

    /// Writes the bytes that `file` has where this dataset lies in a folder, unpacked.
    ///
    /// With a hasher as `out`, this tells whether the dataset is one of known hashes, wherever it
    /// came from.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_idx(&self, file: IdxFile, out: &mut dyn Write) -> io::Result<()> {
        match file {
            IdxFile::TrainImages => self.split(Split::Train).write_images(out),
            IdxFile::TrainLabels => self.split(Split::Train).write_labels(out),
            IdxFile::TestImages => self.split(Split::Test).write_images(out),
            IdxFile::TestLabels => self.split(Split::Test).write_labels(out),
        }
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("train", &self.split(Split::Train).len())
            .field("test", &self.split(Split::Test).len())
            .field("height", &self.height)
            .field("width", &self.width)
            .field("classes", &self.classes())
            .finish()
    }
}

/// Holds a tensor to be bytes of this shape, contiguous and on the CPU.
fn check(field: &'static str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    let fits = tensor.dtype() == DType::U8
        && tensor.dims() == dims
        && tensor.is_contiguous()
        && tensor.device().is_cpu();
    if fits {
        return Ok(());
    }
    let order = if tensor.is_contiguous() { "" } else { ", not contiguous" };
    Err(Error::Tensors {
        tensor: field,
        expected: format!("u8 {dims:?} on the CPU"),
        got: format!(
            "{} {:?} on {:?}{order}",
            tensor.dtype().as_str(),
            tensor.dims(),
            tensor.device().location()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(train_labels: Tensor) -> vision::Dataset {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::U8, &Device::Cpu).unwrap();
        vision::Dataset {
            train_images: zeros(&[3, 6]),
            train_labels,
            test_images: zeros(&[1, 6]),
            test_labels: zeros(&[1]),
            labels: CLASSES,
        }
    }

    #[test]
    fn tensors_of_another_type_or_shape_are_refused_by_name() {
        let labels = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
        let message = |labels| Dataset::new("x", tensors(labels), (2, 3)).unwrap_err().to_string();
        assert_eq!(
            message(labels(&[4], DType::U8)),
            "train_labels: expected u8 [3] on the CPU, got u8 [4] on Cpu"
        );
        assert_eq!(
            message(labels(&[3], DType::F32)),
            "train_labels: expected u8 [3] on the CPU, got f32 [3] on Cpu"
        );
        let every_other = labels(&[3, 2], DType::U8).narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        assert!(message(every_other).ends_with("got u8 [3] on Cpu, not contiguous"));
    }

    #[test]
    fn written_files_are_header_and_bytes() {
        let labels = Tensor::from_slice(&[7_u8, 0, 9], 3, &Device::Cpu).unwrap();
        let dataset = Dataset::new("x", tensors(labels), (2, 3)).unwrap();
        let bytes = |file| {
            let mut bytes = Vec::new();
            dataset.write_idx(file, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(bytes(IdxFile::TrainLabels), [0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9]);
        let images = bytes(IdxFile::TestImages);
        assert_eq!(images[..16], [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
        assert_eq!(images[16..], [0; 6]);
    }
}
