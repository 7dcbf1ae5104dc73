//! Planes of numbers in [0, 1].

use image::{ImageBuffer, Luma};

use crate::Picture;

/// One channel.
pub type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// The channels of a picture, from 0 for black to 1 for white.
#[must_use]
pub fn planes_of(picture: &Picture) -> Vec<Plane> {
    let (height, width) = picture.size();
    let channels = picture.channels();
    let plane = |channel: usize| {
        let values = picture.pixels().iter().skip(channel).step_by(channels);
        let values = values.map(|&byte| f32::from(byte) / 255.0).collect();
        Plane::from_raw(width as u32, height as u32, values).expect("a value a pixel")
    };
    (0..channels).map(plane).collect()
}

/// Exchanges dark and light.
pub fn invert(plane: &mut Plane) {
    plane.iter_mut().for_each(|value| *value = 1.0 - *value);
}

/// `(plane - mean) / std`, plane after plane, with one mean and deviation or one a plane.
#[must_use]
pub fn normalised(planes: &[Plane], mean: &[f64], std: &[f64]) -> Vec<f32> {
    let of = |numbers: &[f64], channel: usize| numbers[channel % numbers.len()] as f32;
    let mut normalised = Vec::with_capacity(planes.iter().map(|plane| plane.len()).sum());
    for (channel, plane) in planes.iter().enumerate() {
        let (mean, std) = (of(mean, channel), of(std, channel));
        normalised.extend(plane.iter().map(|value| (value - mean) / std));
    }
    normalised
}
