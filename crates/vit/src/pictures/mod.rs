//! Picture files as a model's input.

mod args;
pub(crate) mod fuzzing;
mod placement;
mod polarity;
mod source;
mod strokes;

use std::path::Path;

use candle_core::{Device, Tensor};
use vit_data::PictureView;
use vit_patch::ImageSize;
use vit_pictures::{Plane, decode, shrink};

use crate::dataset::{DIGITS, view_by};
use crate::failure::{Exit, Failure, Result};
use crate::saved_model::SavedModel;
pub(crate) use args::{Args, Fit, HELP, Invert};
pub(crate) use source::expand;

/// A picture shrinks to no less than this before anything else is done with it, so that its noise averages out.
const WORKING_SIDE: u32 = 256;

/// How pictures are made like the images that a model was trained on.
pub(crate) struct Preparation {
    size: ImageSize,
    invert: Invert,
    fit: Fit,
    /// What is seen of a picture that is cropped.
    view: PictureView,
    /// Whether the model knows light strokes on a dark ground.
    knows_strokes: bool,
    /// What is subtracted from a channel and what it is divided by: one number, or one for each.
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// A picture as the model sees it.
pub(crate) struct Seen {
    /// (1, channels, height, width), scaled as the model knows pixels.
    pub(crate) image: Tensor,
    pub(crate) inverted: bool,
}

/// A picture as the model sees it, and how it became that.
pub(crate) struct Prepared {
    /// Channel by channel and row by row, scaled as the model knows pixels.
    pub(crate) values: Vec<f32>,
    pub(crate) inverted: bool,
    /// What was done, in words; nothing where the picture was taken as it is.
    pub(crate) done: String,
    /// Whether strokes were looked for, and none found.
    pub(crate) lacks_strokes: bool,
}

impl Preparation {
    /// # Errors
    /// If the model wants channels that pictures have not, or is to be given strokes in colour.
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
            // A file of an earlier version does not tell what it was trained on: as for `vit eval`, MNIST.
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
        Ok(Self { size, invert: args.invert, fit, view, knows_strokes, mean, std })
    }

    /// Reads a picture file, or stdin by the name `-`.
    ///
    /// # Errors
    /// If it cannot be read or is no picture.
    pub(crate) fn read(&self, path: &Path, device: &Device) -> Result<Seen> {
        let bytes = source::bytes(path)?;
        let prepared = self.prepare(&bytes).map_err(|failure| failure.about(path.display()))?;
        if prepared.lacks_strokes {
            tracing::warn!("{}: no strokes stand out from the background", path.display());
        }
        if !prepared.done.is_empty() {
            tracing::info!("{}: {}", path.display(), prepared.done);
        }
        let ImageSize { height, width, channels } = self.size;
        let image = Tensor::from_vec(prepared.values, (1, channels, height, width), device)?;
        Ok(Seen { image, inverted: prepared.inverted })
    }

    /// Makes of a picture file's bytes what the model sees.
    ///
    /// # Errors
    /// If they are no picture.
    pub(crate) fn prepare(&self, bytes: &[u8]) -> Result<Prepared> {
        if self.fit == Fit::Crop {
            return self.prepare_cropped(bytes);
        }
        let (width, height) = (self.size.width as u32, self.size.height as u32);
        let least = WORKING_SIDE.max(width.max(height));
        let decoded = shrink(bytes, least)?;
        let dimensions = decoded.upright_size();
        let mut planes = decoded.planes(self.size.channels);
        drop(decoded);

        let mut done = Vec::new();
        let inverted = match self.invert {
            Invert::Always => true,
            Invert::Never => false,
            Invert::Auto => self.knows_strokes && polarity::is_dark_on_light(&planes[0]),
        };
        if inverted {
            planes.iter_mut().for_each(polarity::invert);
            let automatic = matches!(self.invert, Invert::Auto);
            done.push(if automatic { "dark on light, inverted" } else { "inverted" });
        }
        let fits = dimensions == (width, height);
        let mut lacks_strokes = false;
        if !fits {
            let (how, lacks) = self.fit_all(&mut planes, (width, height));
            lacks_strokes = lacks;
            done.push(how);
        }
        let done = if done.is_empty() {
            String::new()
        } else {
            let (from_width, from_height) = dimensions;
            let model = if fits { String::new() } else { format!(" the model's {width}x{height}") };
            format!("{from_width}x{from_height} px, {}{model}", done.join("; "))
        };
        Ok(Prepared { values: self.scaled(&planes), inverted, done, lacks_strokes })
    }

    /// The same for a model of pictures: what an evaluation sees of the file.
    fn prepare_cropped(&self, bytes: &[u8]) -> Result<Prepared> {
        let picture = decode(bytes, &self.view.decoding())?;
        let seen = self.view.eval.apply(&self.view.store(picture));
        let inverted = matches!(self.invert, Invert::Always);
        let ImageSize { height, width, channels } = self.size;
        let value = |channel: usize, at: usize| {
            let byte = seen.pixels()[at * channels + channel];
            f32::from(if inverted { 255 - byte } else { byte }) / 255.0
        };
        let planes: Vec<Plane> = (0..channels)
            .map(|channel| {
                let values = (0..height * width).map(|at| value(channel, at)).collect();
                Plane::from_raw(width as u32, height as u32, values).expect("a value a pixel")
            })
            .collect();
        let values = self.scaled(&planes);
        Ok(Prepared { values, inverted, done: String::new(), lacks_strokes: false })
    }

    /// What a value that a model sees in a channel was as a byte.
    pub(crate) fn byte(&self, channel: usize, value: f32) -> u8 {
        let of = |numbers: &[f64]| numbers[channel % numbers.len()] as f32;
        (255.0 * (of(&self.std) * value + of(&self.mean))).round() as u8
    }

    /// Brings the planes to a size, and says how, and whether strokes were looked for and not found.
    fn fit_all(&self, planes: &mut [Plane], size: (u32, u32)) -> (&'static str, bool) {
        let mut lacks_strokes = false;
        if self.fit == Fit::Mnist {
            if let Some(ink) = strokes::of(&planes[0]) {
                planes[0] = placement::as_mnist(&ink, size);
                return ("strokes placed as MNIST's in", false);
            }
            lacks_strokes = true;
        }
        let stretch = self.fit == Fit::Stretch;
        for plane in planes {
            let fit = if stretch { placement::stretched } else { placement::padded };
            *plane = fit(plane, size);
        }
        (if stretch { "scaled to" } else { "scaled and padded to" }, lacks_strokes)
    }

    /// Channel by channel, as the model knows pixels.
    fn scaled(&self, planes: &[Plane]) -> Vec<f32> {
        let of = |numbers: &[f64], channel: usize| numbers[channel % numbers.len()] as f32;
        let channel = |(channel, plane): (usize, &Plane)| {
            let (mean, std) = (of(&self.mean, channel), of(&self.std, channel));
            plane.iter().map(|value| (value - mean) / std).collect::<Vec<_>>()
        };
        planes.iter().enumerate().flat_map(channel).collect()
    }
}
