//! MNIST from the hub, through candle-datasets: the last resort, when no mirror answers.

use std::any::Any;
use std::panic::{UnwindSafe, catch_unwind};

use candle_core::Tensor;
use candle_datasets::vision::{self, mnist};

use crate::dataset::{Dataset, numbered};
use crate::error::{Error, Result};

/// Number of MNIST's images in the training and test split.
const COUNTS: [usize; 2] = [60_000, 10_000];
const SIDE: usize = 28;
const CLASSES: usize = 10;

/// Loads MNIST over the network with `candle_datasets::vision::mnist::load`, as bytes.
///
/// Only dtype, counts and labels are checked. To verify it, compare the output of [`Dataset::write_idx`] with the known
/// hashes of MNIST's files.
///
/// # Errors
/// [`Error::Hub`] if the hub is unreachable or returns anything but 60,000 and 10,000 images of 28x28 px with labels
/// below 10. candle-datasets panics on an undecodable image; the panic is caught, after the process's panic hook has
/// run, and becomes this error.
pub fn load_hub_mnist() -> Result<Dataset> {
    let fetched = caught(mnist::load)?;
    let train = bytes(&fetched.train_images, &fetched.train_labels, COUNTS[0])?;
    let test = bytes(&fetched.test_images, &fetched.test_labels, COUNTS[1])?;
    Dataset::from_bytes("mnist", numbered(CLASSES), [train, test], (1, SIDE, SIDE))
}

/// The result of `load`, with a panic turned into an error.
fn caught(
    load: impl FnOnce() -> candle_core::Result<vision::Dataset> + UnwindSafe,
) -> Result<vision::Dataset> {
    match catch_unwind(load) {
        Ok(loaded) => loaded.map_err(|error| Error::Hub { message: error.to_string() }),
        Err(panic) => Err(Error::Hub { message: panic_message(&*panic) }),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("its loader panicked").to_owned()
}

/// The bytes of images f32 (`count`, pixels) in [0, 1], and of labels u8 (`count`).
fn bytes(images: &Tensor, labels: &Tensor, count: usize) -> Result<(Vec<u8>, Vec<u32>)> {
    let wrong =
        |what: &str, got: String| Error::Hub { message: format!("expected {what}, got {got}") };
    if images.dims() != [count, SIDE * SIDE] {
        return Err(wrong(&format!("{count} images of 784 px"), format!("{:?}", images.dims())));
    }
    if labels.dims() != [count] {
        return Err(wrong(&format!("{count} labels"), format!("{:?}", labels.dims())));
    }
    let labels = labels.to_vec1::<u8>()?;
    if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= CLASSES) {
        return Err(wrong("labels below 10", label.to_string()));
    }
    let images = images.flatten_all()?.to_vec1::<f32>()?;
    // In f32, x / 255 * 255 is within two ulps of x, so rounding gives x back.
    let images = images.into_iter().map(|pixel| (pixel * 255.0).round() as u8).collect();
    Ok((images, labels.into_iter().map(u32::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn every_byte_comes_back() {
        let original: Vec<u8> = (0..SIDE * SIDE).map(|at| at as u8).collect();
        let images = Tensor::from_slice(&original, (1, SIDE * SIDE), &Device::Cpu).unwrap();
        // As candle-datasets does: multiplied by the reciprocal of 255.
        let images = (images.to_dtype(DType::F32).unwrap() / 255.0).unwrap();
        let labels = Tensor::from_slice(&[9_u8], 1, &Device::Cpu).unwrap();
        assert_eq!(bytes(&images, &labels, 1).unwrap(), (original, vec![9]));
    }

    #[test]
    fn wrong_counts_and_labels_are_errors() {
        let images = Tensor::zeros((2, SIDE * SIDE), DType::F32, &Device::Cpu).unwrap();
        let labels =
            |labels: &[u8]| Tensor::from_slice(labels, labels.len(), &Device::Cpu).unwrap();
        let message =
            |given: &[u8], count| bytes(&images, &labels(given), count).unwrap_err().to_string();
        assert!(message(&[1, 2], 3).ends_with("expected 3 images of 784 px, got [2, 784]"));
        assert!(message(&[1], 2).ends_with("expected 2 labels, got [1]"));
        assert!(message(&[1, 10], 2).ends_with("expected labels below 10, got 10"));
    }

    #[test]
    fn panics_of_the_loader_become_errors() {
        let failed = caught(|| candle_core::bail!("no route")).err().unwrap();
        assert!(failed.to_string().contains("no route"), "{failed}");
        let panicked = caught(|| panic!("bad image {}", 7)).err().unwrap();
        assert_eq!(panicked.to_string(), "cannot load MNIST from the hub: bad image 7");
    }
}
