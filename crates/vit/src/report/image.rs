//! Images of a dataset as pictures in a report.

use vit_data::Examples;
use vit_report::Picture;

/// An image of a dataset as a picture.
pub(super) fn picture_of(examples: &Examples, index: usize) -> candle_core::Result<Picture> {
    let (channels, height, width) = examples.shape();
    let (bytes, plane) = (examples.image(index)?, height * width);
    let pixel = |at: usize| [0, 1, 2].map(|number| bytes[(number % channels) * plane + at]);
    Ok(Picture::rgb(width, height, (0..plane).map(pixel).collect()))
}
