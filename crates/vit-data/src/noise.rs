//! Images of noise in any size, to measure speed without a dataset.

use vit_random::{Random, Site};

use crate::error::Result;
use crate::examples::Examples;

const PIXELS: Site = Site::named("noise.pixels");
const LABELS: Site = Site::named("noise.labels");

/// `count` images of uniform noise of this shape (channels, height, width), with labels below `classes`; always the
/// same ones.
///
/// # Errors
/// Only if a tensor cannot be made.
///
/// # Panics
/// If `classes` is 0.
pub fn noise(
    count: usize,
    shape @ (channels, height, width): (usize, usize, usize),
    classes: usize,
) -> Result<Examples> {
    let len = count * channels * height * width;
    let random = Random::new(0);
    let mut words = vec![0; len.div_ceil(4)];
    random.stream(PIXELS, 0).fill(&mut words);
    let mut pixels: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    pixels.truncate(len);
    let classes = u32::try_from(classes).unwrap_or(u32::MAX);
    let mut stream = random.stream(LABELS, 0);
    let labels = (0..count).map(|_| stream.below(classes)).collect();
    Examples::of_bytes(pixels, labels, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_size_and_every_byte_and_label() {
        let noise = noise(400, (1, 3, 5), 7).unwrap();
        assert_eq!(noise.len(), 400);
        let mut bytes: Vec<u8> = (0..400).flat_map(|index| noise.image(index).unwrap()).collect();
        assert_eq!(bytes.len(), 400 * 15);
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), 256);
        let labels: Vec<u32> = (0..400).map(|index| noise.label(index)).collect();
        assert!((0..7).all(|class| labels.contains(&class)) && labels.iter().all(|&c| c < 7));
    }
}
