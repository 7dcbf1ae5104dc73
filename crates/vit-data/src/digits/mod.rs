//! The embedded dataset: handwritten-looking digits, drawn by the program.
//!
//! It needs no file and no network, so a newcomer's first command always trains something. The bytes are the same on
//! every machine: drawing uses only +, -, ×, ÷ and the square root, which IEEE 754 rounds alike everywhere; sine and
//! exponential differ between libms.

// Points side by side, not one a line.
#[rustfmt::skip]
mod glyphs;
mod hand;
mod raster;

use vit_random::{Random, Site};

use crate::dataset::{Dataset, Split, numbered};
use crate::error::Result;

use hand::Hand;
use raster::Canvas;

/// Fixed, and unrelated to a run's seed: the dataset is always the same.
const SEED: u64 = 0x6469_6769_7473;
const HAND: Site = Site::named("digits.hand");
const NOISE: Site = Site::named("digits.noise");

/// One for each digit.
const CLASSES: usize = 10;
const TRAIN: u32 = 10_000;
const TEST: u32 = 2_000;

/// Draws the embedded dataset, `digits`: 10,000 training and 2,000 test images of 28x28 px, white on black, balanced,
/// the classes in turn (sample `i` is a drawing of `i % 10`).
///
/// Every class has several variants, drawn with random slant, rotation, proportions, shift, curvature, pen and noise.
/// The difficulty is about MNIST's: the nearest class mean is right for 82.5 % of the test images, the nearest training
/// image for 97.5 % (MNIST: 82.0 and about 97).
///
/// # Errors
/// Only if a tensor cannot be made.
pub fn digits() -> Result<Dataset> {
    let train = draw_split(Split::Train, TRAIN);
    let test = draw_split(Split::Test, TEST);
    let shape = (1, raster::SIDE, raster::SIDE);
    Dataset::from_bytes("digits", numbered(CLASSES), [train, test], shape)
}

/// The pixels and the labels of one split.
fn draw_split(split: Split, count: u32) -> (Vec<u8>, Vec<u32>) {
    // The splits use different steps of one source, so no test image is a training image.
    let random = Random::new(SEED).at_step(match split {
        Split::Train | Split::Validation => 0,
        Split::Test => 1,
    });
    let mut pixels = Vec::with_capacity(count as usize * raster::SIDE * raster::SIDE);
    let mut labels = Vec::with_capacity(count as usize);
    for sample in 0..count {
        let class = sample as usize % CLASSES;
        let mut hand = Hand::new(random.stream(HAND, sample));
        let mut canvas = Canvas::new();
        for stroke in hand.write(class) {
            canvas.draw(&stroke);
        }
        let noise = hand.noise();
        canvas.develop(noise, &mut random.stream(NOISE, sample), &mut pixels);
        labels.push(class as u32);
    }
    (pixels, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IdxFile;
    use sha2::{Digest, Sha256};

    #[test]
    fn classes_are_balanced() {
        let dataset = digits().unwrap();
        for (split, each) in [(Split::Train, TRAIN / 10), (Split::Test, TEST / 10)] {
            let examples = dataset.split(split);
            let mut counts = [0; CLASSES];
            for index in 0..examples.len() {
                counts[examples.label(index) as usize] += 1;
            }
            assert_eq!(counts, [each; CLASSES]);
        }
    }

    /// Results on `digits` are comparable only while these bytes stay.
    #[test]
    fn the_bytes_never_change() {
        let dataset = digits().unwrap();
        let mut hash = Sha256::new();
        for file in IdxFile::ALL {
            let mut bytes = Vec::new();
            dataset.write_idx(file, &mut bytes).unwrap();
            hash.update(bytes);
        }
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "51d5f2ba7231f952c98680b87863b67ca8f29e31f9e14bf1bd3a689985fa7a13");
    }

    #[test]
    fn no_image_is_drawn_twice() {
        let dataset = digits().unwrap();
        let mut images: Vec<Vec<u8>> = [Split::Train, Split::Test]
            .into_iter()
            .map(|split| dataset.split(split))
            .flat_map(|examples| {
                (0..examples.len()).map(move |index| examples.image(index).unwrap())
            })
            .collect();
        images.sort_unstable();
        images.dedup();
        assert_eq!(images.len(), (TRAIN + TEST) as usize);
    }

    #[test]
    fn images_are_light_strokes_on_a_dark_ground() {
        let (pixels, _) = draw_split(Split::Test, 200);
        for image in pixels.chunks(raster::SIDE * raster::SIDE) {
            let light = image.iter().filter(|&&pixel| pixel > 128).count();
            // MNIST's images have 20 to 250 such pixels.
            assert!((15..300).contains(&light), "{light} light pixels");
        }
    }
}
