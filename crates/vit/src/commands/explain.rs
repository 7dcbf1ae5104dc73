//! `vit explain`: draws an explanation of a prediction.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use vit_patch::ImageSize;
use vit_report::Picture;

use crate::args::path;
use crate::device::Device;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, percent};
use crate::outputs::{Force, Inputs, Output};
use crate::pictures::{self, Preparation};
use crate::report;
use crate::saved_model::SavedModel;

/// Draws why a model classifies a picture as it does
#[derive(Debug, clap::Args)]
#[command(after_help = EXPLAINED)]
pub(crate) struct Args {
    /// A run directory, a checkpoint, or a safetensors file from vit
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// A picture (PNG, JPEG, WebP, GIF or BMP), or - for stdin
    #[arg(value_parser = path())]
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) pictures: pictures::Args,
    /// The PNG file to write
    #[arg(short, long, value_name = "PNG", value_parser = path())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) force: Force,
    /// Device: cpu, cuda or cuda:N; auto is a usable GPU, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
}

const EXPLAINED: &str = "\
The picture shows the image as the model sees it, how much of each patch reaches the token that the head reads \
(attention rollout), and the probabilities of the classes.";

pub(super) fn run(args: &Args) -> Result<()> {
    let inputs = Inputs::of([args.model.as_path(), &args.image]);
    let mut output = Output::new(&args.output, &inputs, args.force.existing())?;
    let is_png = args.output.extension().is_some_and(|end| end.eq_ignore_ascii_case("png"));
    if output.is_file() && !is_png {
        let got = args.output.display();
        return Err(Failure::new(
            Exit::Usage,
            format!("expected an output file that ends in .png, got {got}"),
        ));
    }
    let device = args.device.open()?;
    let saved = SavedModel::open(&args.model)?;
    let preparation = Preparation::new(&args.pictures, &saved)?;
    let model = saved.build(&device)?;
    let image = first_of(&args.image, &preparation, &device)?;
    let byte = |channel, value| preparation.byte(channel, value);
    let picture = as_picture(&image, saved.config.image, byte)?;
    let (attention, probabilities) = report::attention(&model, &saved.config, &image, picture)?;
    if !probabilities.iter().all(|probability| probability.is_finite()) {
        let message = "the model's probabilities are not finite";
        return Err(Failure::new(Exit::File, message).about(args.model.display()));
    }
    let names = saved.info.all_names(saved.config.classes);
    let drawn = vit_report::explanation(&attention, &probabilities, &names);
    output.write(&drawn.png())?;
    let (class, probability) = attention.prediction;
    output::line(format!("class        {}", names[class]))?;
    output::line(format!("probability  {}", percent(probability.into())))?;
    output::line(format!("picture      {}", args.output.display()))
}

/// The model's input for the first picture.
fn first_of(
    path: &Path,
    preparation: &Preparation,
    device: &candle_core::Device,
) -> Result<Tensor> {
    let pictures = pictures::read(path)?;
    let [picture] = pictures.as_slice() else {
        let message = format!("expected one picture, got {}", pictures.len());
        return Err(Failure::new(Exit::Usage, message).about(path.display()));
    };
    Ok(preparation.see(&picture.bytes, &picture.name, device)?.image)
}

/// The model's input, converted back to bytes.
///
/// # Shapes
/// `image` (1, channels, height, width)
fn as_picture(image: &Tensor, size: ImageSize, byte: impl Fn(usize, f32) -> u8) -> Result<Picture> {
    let values = image.flatten_all()?.to_vec1::<f32>()?;
    let plane = size.height * size.width;
    // A grey channel is used three times.
    let value = |channel: usize, at: usize| byte(channel, values[channel * plane + at]);
    let pixel = |at: usize| [0, 1, 2].map(|number| value(number % size.channels, at));
    Ok(Picture::rgb(size.width, size.height, (0..plane).map(pixel).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_models_input_is_shown() -> Result<()> {
        let scaled = |byte: u8| (f32::from(byte) / 255.0 - 0.5) / 0.5;
        let size = |channels| ImageSize { height: 1, width: 2, channels };
        let bytes = [0, 255, 3, 4, 127, 200].map(scaled);
        let colour = Tensor::from_slice(&bytes, (1, 3, 1, 2), &Device::Cpu)?;
        let expected = Picture::rgb(2, 1, vec![[0, 3, 127], [255, 4, 200]]);
        let byte = |_, value: f32| (255.0 * (0.5 * value + 0.5)).round() as u8;
        assert_eq!(as_picture(&colour, size(3), byte)?, expected);
        let grey = Tensor::from_slice(&bytes[2..4], (1, 1, 1, 2), &Device::Cpu)?;
        assert_eq!(as_picture(&grey, size(1), byte)?, Picture::grey(2, 1, &[3, 4]));
        Ok(())
    }
}
