//! Normalisation of bytes to the model's inputs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::examples::Examples;

/// Normalised value of each byte of a channel.
pub(crate) type Table = [f32; 256];

/// Mean and standard deviation for pixels in [0, 1]: one number for all channels, or one for each.
///
/// PyTorch equivalent: `ToTensor()`, then `Normalize(mean, std)`, bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Subtracted first.
    pub mean: Vec<f64>,
    /// Divisor.
    pub std: Vec<f64>,
}

/// `(x / 255 - 0.5) / 0.5`. A table is exact, and faster than dividing.
pub(crate) const HALF: Table = table(0.5, 0.5);

/// The same with a static address.
pub(crate) static HALF_FOR_EVER: Table = HALF;

impl Default for Normalization {
    fn default() -> Self {
        Self::half()
    }
}

impl Normalization {
    /// Mean and deviation 0.5: inputs from -1 to 1.
    #[must_use]
    pub fn half() -> Self {
        Self { mean: vec![0.5], std: vec![0.5] }
    }

    /// ImageNet's mean and deviation, which most published models use.
    #[must_use]
    pub fn imagenet() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// Mean and deviation of each channel over all pixels of these images, in their evaluation view.
    ///
    /// # Errors
    /// If there are no images, or one cannot be read.
    pub fn of(examples: &Examples) -> Result<Self> {
        let (channels, height, width) = examples.shape();
        let mut counts = vec![[0_u64; 256]; channels];
        for index in 0..examples.len() {
            let image = examples.image(index)?;
            for (counts, plane) in counts.iter_mut().zip(image.chunks_exact(height * width)) {
                plane.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
            }
        }
        let total = (examples.len() * height * width) as f64;
        let mean = |counts: &[u64; 256], of: &dyn Fn(f64) -> f64| {
            let each = (0..).zip(counts).map(|(byte, &n)| of(f64::from(byte) / 255.0) * n as f64);
            each.sum::<f64>() / total
        };
        let means: Vec<f64> = counts.iter().map(|counts| mean(counts, &|x| x)).collect();
        let stds = counts.iter().zip(&means);
        let stds = stds.map(|(counts, &middle)| mean(counts, &|x| (x - middle).powi(2)).sqrt());
        let measured = Self { std: stds.collect(), mean: means };
        measured.check(channels)?;
        Ok(measured)
    }

    /// Checks the numbers for images with this many channels.
    ///
    /// # Errors
    /// If there are neither one number nor one for each channel, one is not finite, or a deviation is not above 0.
    pub fn check(&self, channels: usize) -> Result<()> {
        let wrong = |field, expected, values: &[f64]| {
            Err(Error::Normalization { field, expected, got: format!("{values:?}") })
        };
        let counts = |values: &[f64]| values.len() == 1 || values.len() == channels;
        let one = "one number, or one for each channel";
        if !counts(&self.mean) || !self.mean.iter().all(|mean| mean.is_finite()) {
            return wrong("mean", one, &self.mean);
        }
        if !counts(&self.std) || !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return wrong("std", "one number above 0, or one for each channel", &self.std);
        }
        Ok(())
    }

    /// A table a channel.
    pub(crate) fn tables(&self, channels: usize) -> Result<Arc<[Table]>> {
        self.check(channels)?;
        let of = |values: &[f64], channel: usize| values[channel % values.len()] as f32;
        Ok((0..channels)
            .map(|channel| table(of(&self.mean, channel), of(&self.std, channel)))
            .collect())
    }
}

const fn table(mean: f32, std: f32) -> Table {
    let mut table = [0.0; 256];
    let mut pixel = 0;
    while pixel < table.len() {
        table[pixel] = (pixel as f32 / 255.0 - mean) / std;
        pixel += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// Hash of the values that PyTorch 2.15 gives:
    /// `torch.arange(256).float().div(255).sub(torch.tensor(0.5)).div(torch.tensor(0.5))`.
    #[test]
    fn normalised_values_equal_pytorchs() {
        let bytes: Vec<u8> = HALF.iter().flat_map(|value| value.to_le_bytes()).collect();
        let hash = Sha256::digest(bytes);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "d15e8ce72284446496a6de66e8a4795818530b44cd2c3dd415077364535c3c1a");
    }

    #[test]
    fn one_number_serves_all_channels() {
        let tables = Normalization::half().tables(3).unwrap();
        assert!(tables.len() == 3 && tables.iter().all(|table| *table == HALF));
        let tables = Normalization::imagenet().tables(3).unwrap();
        assert_eq!(tables[2][255], (1.0_f32 - 0.406) / 0.225);
    }

    #[test]
    fn invalid_numbers_are_named() {
        let message = |normalization: Normalization, channels| {
            normalization.check(channels).unwrap_err().to_string()
        };
        assert_eq!(
            message(Normalization::imagenet(), 1),
            "expected mean of one number, or one for each channel, got [0.485, 0.456, 0.406]"
        );
        let flat = Normalization { std: vec![0.0], ..Normalization::half() };
        assert_eq!(
            message(flat, 3),
            "expected std of one number above 0, or one for each channel, got [0.0]"
        );
    }
}
