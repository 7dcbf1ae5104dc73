//! Turning picture files into model inputs.

mod args;
pub(crate) mod fuzzing;
mod source;

use candle_core::{Device, Tensor};
use vit_data::PictureView;
use vit_digits::{Polarity, Strokes, Tone, as_mnist, padded, stretched};
use vit_patch::ImageSize;
use vit_pictures::{decode, invert, normalised, planes_of, resize, shrink};

use crate::dataset::view_by;
use crate::dataset_name::DIGITS;
use crate::failure::{Exit, Failure, Result};
use crate::saved_model::SavedModel;
pub(crate) use args::{Args, Fit, HELP, Invert};
pub(crate) use source::{NamedPicture, expand, read};

/// Large pictures are first averaged down to no less than this, which reduces noise.
const WORKING_SIDE: u32 = 240;

/// The preprocessing of pictures for a model.
pub(crate) struct Preparation {
    size: ImageSize,
    invert: Invert,
    fit: Fit,
    /// Whether pictures of the model's size are fitted too.
    fits_all: bool,
    /// The view of cropped pictures.
    view: PictureView,
    /// Whether the model was trained on light strokes on a dark background.
    knows_strokes: bool,
    /// Mean and deviation: one number, or one a channel.
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// A model input from a picture.
pub(crate) struct Seen {
    /// (1, channels, height, width), normalised.
    pub(crate) image: Tensor,
    pub(crate) inverted: bool,
}

/// A model input and how it was made.
pub(crate) struct Prepared {
    /// Channel by channel and row by row, normalised.
    pub(crate) values: Vec<f32>,
    pub(crate) inverted: bool,
    /// A description of the changes; empty if there were none.
    pub(crate) done: String,
    /// A warning about a doubtful result.
    pub(crate) doubt: Option<&'static str>,
}

const BLANK: &str = "no strokes stand out from the background: the prediction is meaningless";
const GUESS: &str = "the strokes may be the dark or the light parts: --invert always takes the dark, --invert never the light";

impl Preparation {
    /// # Errors
    /// If the model's number of channels is not 1 or 3, or it needs strokes in colour.
    pub(crate) fn new(args: &Args, saved: &SavedModel) -> Result<Self> {
        let size = saved.config.image;
        if ![1, 3].contains(&size.channels) {
            let message =
                format!("a picture has 1 or 3 channels, the model expects {}", size.channels);
            return Err(Failure::new(Exit::Data, message));
        }
        if size.channels != 1 && args.fit == Some(Fit::Mnist) {
            let message = "--fit mnist is for models of grey images, this one takes colour";
            return Err(Failure::new(Exit::Usage, message).hint("pass --fit pad or stretch"));
        }
        let transform = saved.info.transform.clone();
        let of_digits = match &transform {
            Some(transform) => transform.fit == vit_model::Fit::Mnist,
            // A file of an earlier version does not record its dataset; assume MNIST, like `vit eval`.
            None => {
                let of_run = saved.run.as_ref().and_then(|run| run.dataset.as_deref());
                of_run.is_none_or(|name| [vit_fetch::MNIST.name, DIGITS].contains(&name))
            }
        };
        let knows_strokes = size.channels == 1 && of_digits;
        let usual = match transform.as_ref().map(|transform| transform.fit) {
            _ if knows_strokes => Fit::Mnist,
            Some(vit_model::Fit::Crop) => Fit::Crop,
            Some(vit_model::Fit::Pad) => Fit::Pad,
            _ => Fit::Stretch,
        };
        let fit = args.fit.unwrap_or(usual);
        let view = match &transform {
            Some(transform) => view_by(transform, size),
            None => PictureView::of_size(size.channels, (size.height, size.width)),
        };
        if fit == Fit::Crop {
            view.eval.check()?;
        }
        let (mean, std) = match transform {
            Some(transform) => (transform.mean, transform.std),
            None => (vec![0.5], vec![0.5]),
        };
        let fits_all = args.fit.is_some();
        Ok(Self { size, invert: args.invert, fit, fits_all, view, knows_strokes, mean, std })
    }

    /// Converts a picture file to a model input, and logs how, under this name.
    ///
    /// # Errors
    /// If it is not a picture.
    pub(crate) fn see(&self, bytes: &[u8], name: &str, device: &Device) -> Result<Seen> {
        let prepared = self.prepare(bytes).map_err(|failure| failure.about(name))?;
        if let Some(doubt) = prepared.doubt {
            tracing::warn!("{name}: {doubt}");
        }
        if !prepared.done.is_empty() {
            tracing::info!("{name}: {}", prepared.done);
        }
        let ImageSize { height, width, channels } = self.size;
        let image = Tensor::from_vec(prepared.values, (1, channels, height, width), device)?;
        Ok(Seen { image, inverted: prepared.inverted })
    }

    /// Converts a picture file to a model input.
    ///
    /// # Errors
    /// If it is not a picture.
    pub(crate) fn prepare(&self, bytes: &[u8]) -> Result<Prepared> {
        if self.fit == Fit::Crop || (self.fit == Fit::Stretch && !self.knows_strokes) {
            return self.prepare_in_bytes(bytes);
        }
        let size = (self.size.width as u32, self.size.height as u32);
        let decoded = shrink(bytes, WORKING_SIDE.max(size.0.max(size.1)))?;
        let (from_width, from_height) = decoded.upright_size();
        let mut planes = decoded.planes(self.size.channels);
        drop(decoded);

        let is_taken_whole = (from_width, from_height) == size && !self.fits_all;
        let is_asked = matches!(self.invert, Invert::Auto) && self.knows_strokes;
        let is_placed = self.fit == Fit::Mnist && !is_taken_whole;
        let strokes = is_placed.then(|| {
            let tone = match self.invert {
                Invert::Auto if self.knows_strokes => None,
                Invert::Always => Some(Tone::Dark),
                Invert::Auto | Invert::Never => Some(Tone::Light),
            };
            Strokes::find(&planes[0], tone)
        });
        let polarity = match &strokes {
            Some(found) => Some(found.as_ref().map(|strokes| strokes.polarity)),
            None => is_asked.then(|| Polarity::of(&planes[0])),
        };
        let doubt = match polarity {
            Some(None) => Some(BLANK),
            Some(Some(Polarity { is_guess: true, .. })) => Some(GUESS),
            _ => None,
        };
        let inverted = match self.invert {
            Invert::Always => true,
            Invert::Never => false,
            Invert::Auto => polarity.flatten().is_some_and(|found| found.tone == Tone::Dark),
        };
        let mut done = Vec::new();
        if inverted {
            planes.iter_mut().for_each(invert);
            let is_auto = matches!(self.invert, Invert::Auto);
            done.push(if is_auto { "dark on light, inverted" } else { "inverted" });
        }
        let fit = if is_taken_whole { None } else { Some(self.fit) };
        match (fit, strokes.flatten()) {
            (None, _) => {}
            (Some(Fit::Mnist), Some(strokes)) => {
                planes[0] = as_mnist(&strokes.ink, size);
                done.push("strokes placed as MNIST's in the model's");
            }
            (Some(Fit::Stretch), _) => {
                planes.iter_mut().for_each(|plane| *plane = stretched(plane, size));
                done.push("scaled to the model's");
            }
            (Some(_), _) => {
                planes.iter_mut().for_each(|plane| *plane = padded(plane, size));
                done.push("scaled and padded to the model's");
            }
        }
        let done = match (done.is_empty(), fit) {
            (true, _) => String::new(),
            (false, None) => format!("{from_width}x{from_height} px, {}", done.join("; ")),
            (false, Some(_)) => {
                let (width, height) = size;
                format!("{from_width}x{from_height} px, {} {width}x{height}", done.join("; "))
            }
        };
        Ok(Prepared { values: normalised(&planes, &self.mean, &self.std), inverted, done, doubt })
    }

    /// For models of pictures: bytes, decoded and resized as by the libraries that trained them.
    fn prepare_in_bytes(&self, bytes: &[u8]) -> Result<Prepared> {
        let picture = decode(bytes, &self.view.decoding())?;
        let ImageSize { height, width, .. } = self.size;
        let (from_height, from_width) = picture.size();
        let (seen, done) = match self.fit {
            Fit::Stretch if (from_height, from_width) == (height, width) => {
                (picture, String::new())
            }
            Fit::Stretch => {
                let seen = resize(&picture, (height, width), self.view.eval.interpolation);
                let from = format!("{from_width}x{from_height} px");
                (seen, format!("{from}, scaled to the model's {width}x{height}"))
            }
            _ => (self.view.eval.apply(&self.view.store(picture)), String::new()),
        };
        let inverted = matches!(self.invert, Invert::Always);
        let mut planes = planes_of(&seen);
        if inverted {
            planes.iter_mut().for_each(invert);
        }
        let values = normalised(&planes, &self.mean, &self.std);
        Ok(Prepared { values, inverted, done, doubt: None })
    }

    /// The byte that an input value stands for.
    pub(crate) fn byte(&self, channel: usize, value: f32) -> u8 {
        let of = |numbers: &[f64]| numbers[channel % numbers.len()] as f32;
        (255.0 * (of(&self.std) * value + of(&self.mean))).round() as u8
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use vit_pictures::{DecodeOptions, Interpolation};

    use super::*;

    #[test]
    fn a_photo_for_a_model_of_pictures_is_stretched_like_pillow_does() {
        let (width, height) = (48, 40);
        let mut view = PictureView::of_size(3, (height, width));
        view.stored = usize::MAX;
        view.eval.interpolation = Interpolation::Bilinear;
        let preparation = Preparation {
            size: ImageSize { height, width, channels: 3 },
            invert: Invert::Auto,
            fit: Fit::Stretch,
            fits_all: false,
            view,
            knows_strokes: false,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/views");
        let file = |name| fs::read(folder.join(name)).expect("a fixture");
        let expected =
            decode(&file("stretched.png"), &DecodeOptions::default()).expect("a picture");
        let prepared = preparation.prepare(&file("photo.jpg")).expect("a picture");
        assert_eq!(prepared.done, "97x73 px, scaled to the model's 48x40");
        for (at, pixel) in expected.pixels().chunks_exact(3).enumerate() {
            for (channel, &byte) in pixel.iter().enumerate() {
                let value = prepared.values[channel * width * height + at];
                let got = preparation.byte(channel, value);
                assert!(got.abs_diff(byte) <= 1, "pixel {at}, channel {channel}: {got}, {byte}");
            }
        }
    }
}
