//! Draws the first ten of each class of the embedded digits into one PNG:
//! `cargo run -p vit-data --example contact_sheet -- digits.png`

use std::error::Error;

use image::{GrayImage, Luma};
use vit_data::Split;

/// Distance in pixels from one image to the next, and the enlargement.
const PITCH: usize = 30;
const ZOOM: u32 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("expected the PNG's path, got no argument")?;
    let dataset = vit_data::digits()?;
    let examples = dataset.split(Split::Train);
    let side = (10 * PITCH) as u32;
    let mut sheet = GrayImage::from_pixel(side, side, Luma([96]));
    for index in 0..100 {
        let (column, row) = (index / 10 * PITCH, index % 10 * PITCH);
        for (at, pixel) in examples.image(index)?.into_iter().enumerate() {
            let (x, y) = (column + at % dataset.width(), row + at / dataset.width());
            sheet.put_pixel(x as u32 + 1, y as u32 + 1, Luma([pixel]));
        }
    }
    let enlarged = image::imageops::resize(
        &sheet,
        ZOOM * side,
        ZOOM * side,
        image::imageops::FilterType::Nearest,
    );
    enlarged.save(path)?;
    Ok(())
}
