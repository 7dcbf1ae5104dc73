//! Picture files as a model's input.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use image::DynamicImage;
use image::imageops::FilterType;
use vit_patch::ImageSize;

use crate::failure::{Exit, Failure, Result};

/// Reads a PNG or JPEG file as the model sees images: in its size, grey or colour, scaled to [-1, 1].
///
/// # Shapes
/// -> (1, channels, height, width)
///
/// # Errors
/// If the file cannot be read or is no picture, or the model wants channels that pictures have not.
pub(crate) fn read(path: &Path, size: ImageSize, device: &Device) -> Result<Tensor> {
    let picture = decode(path)?;
    let (height, width) = (size.height as u32, size.width as u32);
    let fits = (picture.height(), picture.width()) == (height, width);
    let picture = if fits {
        picture
    } else {
        tracing::info!(
            "{}: {}x{} px, scaled to the model's {width}x{height}",
            path.display(),
            picture.width(),
            picture.height()
        );
        picture.resize_exact(width, height, FilterType::Triangle)
    };
    let pixels = match size.channels {
        1 => picture.into_luma8().into_raw(),
        3 => channels_first(&picture.into_rgb8()),
        channels => {
            let message = format!("a picture has 1 or 3 channels, the model expects {channels}");
            return Err(Failure::new(Exit::Data, message).about(path.display()));
        }
    };
    let scaled: Vec<f32> =
        pixels.into_iter().map(|pixel| (f32::from(pixel) / 255.0 - 0.5) / 0.5).collect();
    Ok(Tensor::from_vec(scaled, (1, size.channels, size.height, size.width), device)?)
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let bytes = fs::read(path).map_err(|error| {
        Failure::new(Exit::Data, format!("cannot read {}: {error}", path.display()))
    })?;
    // By content: a name can lie.
    let format = image::guess_format(&bytes).ok().filter(image::ImageFormat::reading_enabled);
    let Some(format) = format else {
        let message = "expected a PNG or JPEG picture, got something else";
        return Err(Failure::new(Exit::Data, message)
            .about(path.display())
            .hint("convert it to PNG first"));
    };
    image::load_from_memory_with_format(&bytes, format)
        .map_err(|error| Failure::from(error).about(path.display()))
}

/// (height, width, channel) as (channel, height, width).
fn channels_first(picture: &image::RgbImage) -> Vec<u8> {
    let pixels = picture.as_raw();
    (0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect()
}
