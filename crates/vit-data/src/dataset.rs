//! Labelled images in splits, with class names.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use candle_core::{DType, Tensor};
use candle_datasets::vision;

use crate::error::{Error, Result};
use crate::examples::Examples;
use crate::idx::IdxFile;
use crate::normalization::Normalization;

/// A split of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training.
    Train,
    /// For choosing settings and the best epoch; empty if the dataset has none.
    Validation,
    /// For the final test only; empty if the dataset has none.
    Test,
}

/// Labelled images of one size with 1 or 3 channels, and the names of their classes.
#[derive(Clone)]
pub struct Dataset {
    name: String,
    classes: Arc<[String]>,
    train: Examples,
    validation: Examples,
    test: Examples,
}

/// The splits of a dataset; an empty one is absent.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) train: Examples,
    pub(crate) validation: Examples,
    pub(crate) test: Examples,
}

impl Dataset {
    /// A dataset from candle-datasets' tensors, as bytes on the CPU. Classes are named by their numbers.
    ///
    /// # Shapes
    /// Images u8 (count, `height * width`), labels u8 (count), contiguous; the two splits may differ in count. Labels
    /// are not validated.
    ///
    /// # Errors
    /// [`Error::Tensors`] for any other dtype or shape.
    pub fn new(
        name: impl Into<String>,
        tensors: &vision::Dataset,
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
        let part = |images: &Tensor, labels: &Tensor| {
            let labels = labels.to_vec1::<u8>()?.into_iter().map(u32::from);
            Ok::<_, Error>(Examples::new(images.clone(), labels.collect(), (1, height, width)))
        };
        let parts = Parts {
            train: part(&tensors.train_images, &tensors.train_labels)?,
            validation: Examples::none((1, height, width))?,
            test: part(&tensors.test_images, &tensors.test_labels)?,
        };
        Ok(Self::of_parts(name, numbered(tensors.labels), parts))
    }

    /// A dataset from checked splits, with labels below the number of classes.
    pub(crate) fn of_parts(
        name: impl Into<String>,
        classes: impl Into<Arc<[String]>>,
        Parts { train, validation, test }: Parts,
    ) -> Self {
        Self { name: name.into(), classes: classes.into(), train, validation, test }
    }

    /// A dataset from bytes: images and labels of training and test.
    pub(crate) fn from_bytes(
        name: impl Into<String>,
        classes: impl Into<Arc<[String]>>,
        [train, test]: [(Vec<u8>, Vec<u32>); 2],
        shape: (usize, usize, usize),
    ) -> Result<Self> {
        let part =
            |(pixels, labels): (Vec<u8>, Vec<u32>)| Examples::of_bytes(pixels, labels, shape);
        let parts =
            Parts { train: part(train)?, validation: Examples::none(shape)?, test: part(test)? };
        Ok(Self::of_parts(name, classes, parts))
    }

    /// A dataset from decoded pictures: for each split (training, validation, test) the bytes of all images, channel by
    /// channel and row by row, and their labels.
    ///
    /// # Errors
    /// If the number of bytes does not match labels and shape.
    ///
    /// # Panics
    /// If a label is not below the number of classes.
    pub fn of_images(
        name: impl Into<String>,
        classes: Vec<String>,
        [train, validation, test]: [(Vec<u8>, Vec<u32>); 3],
        shape: (usize, usize, usize),
    ) -> Result<Self> {
        let part = |(pixels, labels): (Vec<u8>, Vec<u32>)| {
            let is_class = |&label: &u32| (label as usize) < classes.len();
            assert!(labels.iter().all(is_class), "expected labels below {}", classes.len());
            Examples::of_bytes(pixels, labels, shape)
        };
        let parts = Parts { train: part(train)?, validation: part(validation)?, test: part(test)? };
        Ok(Self::of_parts(name, classes, parts))
    }

    /// Renames the dataset.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Replaces the class names.
    ///
    /// # Panics
    /// If the number of names is not the number of classes.
    #[must_use]
    pub fn with_class_names(self, names: impl Into<Arc<[String]>>) -> Self {
        let classes = names.into();
        assert_eq!(classes.len(), self.classes.len(), "expected a name for each class");
        Self { classes, ..self }
    }

    /// Sets the normalisation of its batches.
    ///
    /// # Errors
    /// If mean or deviation has neither one number nor one a channel, or a deviation is not above 0.
    pub fn with_normalization(self, normalization: &Normalization) -> Result<Self> {
        let tables = normalization.tables(self.channels())?;
        let with = |part: Examples| part.with_tables(Arc::clone(&tables));
        let (train, validation, test) = (with(self.train), with(self.validation), with(self.test));
        Ok(Self { train, validation, test, ..self })
    }

    /// The dataset's name in results, such as `mnist`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows of an image.
    #[must_use]
    pub fn height(&self) -> usize {
        self.train.shape().1
    }

    /// Columns of an image.
    #[must_use]
    pub fn width(&self) -> usize {
        self.train.shape().2
    }

    /// Values a pixel: 1 for grey, 3 for colour.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.train.shape().0
    }

    /// The number of classes; every label is below it.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// The name of each class, by its label.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// One split, empty if the dataset has none. It shares the dataset's memory and may outlive it.
    #[must_use]
    pub fn split(&self, split: Split) -> Examples {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
        .clone()
    }

    /// Writes what identifies the dataset: all images and labels. For a dataset that [IDX files can
    /// hold](Self::is_idx), these are the bytes of the four files, one after another.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn digest(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.is_idx() {
            return IdxFile::ALL.into_iter().try_for_each(|file| self.write_idx(file, out));
        }
        let (channels, height, width) = self.train.shape();
        writeln!(out, "{channels}x{height}x{width}, {} classes", self.classes())?;
        for class in self.class_names() {
            writeln!(out, "{class:?}")?;
        }
        for part in [&self.train, &self.validation, &self.test] {
            writeln!(out, "{} images", part.len())?;
            for label in part.labels() {
                out.write_all(&label.to_le_bytes())?;
            }
            part.write_content(out)?;
        }
        Ok(())
    }

    /// Whether four IDX files can hold the dataset: grey, with a training and a test split, and labels that fit a byte.
    #[must_use]
    pub fn is_idx(&self) -> bool {
        self.channels() == 1
            && self.validation.is_empty()
            && !self.test.is_empty()
            && self.classes() <= 256
            && self.train.is_in_memory()
    }

    /// Writes the bytes that the unpacked `file` would have.
    ///
    /// With a hasher as `out` this verifies the dataset against known hashes, from any source.
    ///
    /// # Errors
    /// If `out` fails, or IDX files [cannot hold](Self::is_idx) the dataset.
    pub fn write_idx(&self, file: IdxFile, out: &mut dyn Write) -> io::Result<()> {
        if !self.is_idx() {
            return Err(io::Error::other("four IDX files cannot hold this dataset"));
        }
        match file {
            IdxFile::TrainImages => self.train.write_images(out),
            IdxFile::TrainLabels => self.train.write_labels(out),
            IdxFile::TestImages => self.test.write_images(out),
            IdxFile::TestLabels => self.test.write_labels(out),
        }
    }
}

/// Class names that are the classes' numbers.
pub(crate) fn numbered(classes: usize) -> Vec<String> {
    (0..classes).map(|class| class.to_string()).collect()
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("train", &self.split(Split::Train).len())
            .field("validation", &self.split(Split::Validation).len())
            .field("test", &self.split(Split::Test).len())
            .field("channels", &self.channels())
            .field("height", &self.height())
            .field("width", &self.width())
            .field("classes", &self.classes())
            .finish()
    }
}

/// Checks that a tensor is contiguous bytes of this shape on the CPU.
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
    use candle_core::Device;

    fn tensors(train_labels: Tensor) -> vision::Dataset {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::U8, &Device::Cpu).unwrap();
        vision::Dataset {
            train_images: zeros(&[3, 6]),
            train_labels,
            test_images: zeros(&[1, 6]),
            test_labels: zeros(&[1]),
            labels: 10,
        }
    }

    #[test]
    fn tensors_of_another_dtype_or_shape_are_named_in_the_error() {
        let labels = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
        let message = |labels| Dataset::new("x", &tensors(labels), (2, 3)).unwrap_err().to_string();
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
    fn written_files_have_a_header_and_the_bytes() {
        let labels = Tensor::from_slice(&[7_u8, 0, 9], 3, &Device::Cpu).unwrap();
        let dataset = Dataset::new("x", &tensors(labels), (2, 3)).unwrap();
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
