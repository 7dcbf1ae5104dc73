//! The model's view of a picture: fixed for evaluation, different in each epoch for training.

use vit_random::{Random, Site, Stream};

use crate::policy::trivial;
use crate::resize::{Axis, Span, resize_part};
use crate::{Error, Interpolation, Picture, colour};

const CROP: Site = Site::named("pictures.crop");
const FLIP: Site = Site::named("pictures.flip");
const POLICY: Site = Site::named("pictures.policy");
const JITTER: Site = Site::named("pictures.jitter");

/// The evaluation view: resizes the shorter side and keeps the centre.
///
/// torchvision equivalent: `CenterCrop(crop)(Resize(resize, interpolation)(picture))` on PIL pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalView {
    /// Pixels of the shorter side after resizing; the longer one is `floor(resize * longer / shorter)`.
    pub resize: usize,
    /// Height and width of the view, each at most `resize`.
    pub crop: (usize, usize),
    /// The filter.
    pub interpolation: Interpolation,
}

impl EvalView {
    /// Checks the settings.
    ///
    /// # Errors
    /// If the crop is empty or larger than `resize`.
    pub fn check(&self) -> Result<(), Error> {
        let (height, width) = self.crop;
        if height.min(width) == 0 || height.max(width) > self.resize {
            return Err(Error::Setting {
                name: "crop",
                expected: "sides from 1 to `resize`",
                got: format!("{height}x{width} of {}", self.resize),
            });
        }
        Ok(())
    }

    /// The view, of shape (`crop`, channels). Only the crop is computed.
    ///
    /// # Panics
    /// If the settings are out of range: see [`check`](Self::check).
    #[must_use]
    pub fn apply(&self, picture: &Picture) -> Picture {
        assert!(self.check().is_ok(), "expected checked settings");
        let (height, width) = picture.size();
        let shorter = height.min(width);
        let axis = |side, crop| {
            let to = self.resize * side / shorter;
            // Python's `round`: halves to even.
            let first = ((to - crop) as f64 / 2.0).round_ties_even() as usize;
            Axis { from: Span::all(side), to, kept: Span { first, count: crop } }
        };
        let (down, across) = (axis(height, self.crop.0), axis(width, self.crop.1));
        resize_part(picture, down, across, self.interpolation)
    }
}

/// Colour jitter: each factor is drawn from `[1 - x, 1 + x]` (from 0 at least), the hue's shift from `[-hue, hue]`
/// turns. 0 leaves a property unchanged.
///
/// torchvision equivalent: `ColorJitter(brightness, contrast, saturation, hue)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Jitter {
    /// At least 0.
    pub brightness: f64,
    /// At least 0.
    pub contrast: f64,
    /// At least 0.
    pub saturation: f64,
    /// 0 to 0.5.
    pub hue: f64,
}

/// An automatic augmentation policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// None.
    #[default]
    None,
    /// TrivialAugment Wide (arXiv 2103.10158): one of 14 operations, at one of 31 strengths.
    ///
    /// torchvision equivalent: `TrivialAugmentWide()`.
    Trivial,
}

/// The training view: a random resized crop, a random flip, a policy and colour jitter, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainView {
    /// Height and width of the view.
    pub size: (usize, usize),
    /// Smallest and largest share of the picture's area to crop, above 0 and up to 1. The aspect ratio is drawn from
    /// 3/4 to 4/3, uniform in its logarithm. (1, 1) resizes the whole picture, ignoring its proportions.
    ///
    /// torchvision equivalent: `RandomResizedCrop(size, scale=crop_scale)`; its default is (0.08, 1).
    pub crop_scale: (f64, f64),
    /// Probability of a horizontal flip, from 0 to 1.
    ///
    /// torchvision equivalent: `RandomHorizontalFlip(flip)`.
    pub flip: f64,
    /// Colour jitter.
    pub jitter: Jitter,
    /// Automatic augmentation policy.
    pub policy: Policy,
    /// The filter of the resize.
    pub interpolation: Interpolation,
}

impl TrainView {
    /// Checks the settings.
    ///
    /// # Errors
    /// If a setting is out of range; the error names it.
    pub fn check(&self) -> Result<(), Error> {
        let (least, most) = self.crop_scale;
        let Jitter { brightness, contrast, saturation, hue } = self.jitter;
        let (height, width) = self.size;
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        let checks = [
            ("size", "sides of at least 1", height.min(width) > 0, format!("{height}x{width}")),
            (
                "crop_scale",
                "0 < least <= greatest <= 1",
                0.0 < least && least <= most && most <= 1.0,
                format!("({least}, {most})"),
            ),
            ("flip", "0 to 1", (0.0..=1.0).contains(&self.flip), self.flip.to_string()),
            ("brightness", "0 or more", not_negative(brightness), brightness.to_string()),
            ("contrast", "0 or more", not_negative(contrast), contrast.to_string()),
            ("saturation", "0 or more", not_negative(saturation), saturation.to_string()),
            ("hue", "0 to 0.5", (0.0..=0.5).contains(&hue), hue.to_string()),
        ];
        match checks.into_iter().find(|&(_, _, is_fine, _)| !is_fine) {
            Some((name, expected, _, got)) => Err(Error::Setting { name, expected, got }),
            None => Ok(()),
        }
    }

    /// The view, of shape (`size`, channels): a pure function of the picture, the seed and step (the epoch) of
    /// `random`, and `index`.
    ///
    /// # Panics
    /// If the settings are out of range: see [`check`](Self::check).
    #[must_use]
    pub fn apply(&self, picture: &Picture, random: Random, index: u32) -> Picture {
        assert!(self.check().is_ok(), "expected checked settings");
        let [rows, columns] =
            crop(picture.size(), self.crop_scale, &mut random.stream(CROP, index));
        let axis = |from, to| Axis { from, to, kept: Span::all(to) };
        let (down, across) = (axis(rows, self.size.0), axis(columns, self.size.1));
        let mut view = resize_part(picture, down, across, self.interpolation);
        if random.stream(FLIP, index).uniform() < self.flip {
            flip(&mut view);
        }
        if self.policy == Policy::Trivial {
            view = trivial(view, &mut random.stream(POLICY, index));
        }
        jitter(&mut view, self.jitter, &mut random.stream(JITTER, index));
        view
    }
}

/// Rows and columns as in torchvision's `RandomResizedCrop.get_params`: ten tries, then the largest centred crop with
/// an allowed aspect ratio.
pub(crate) fn crop(
    (height, width): (usize, usize),
    scale: (f64, f64),
    stream: &mut Stream,
) -> [Span; 2] {
    const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
    if scale == (1.0, 1.0) {
        return [Span::all(height), Span::all(width)];
    }
    let area = height as f64 * width as f64;
    for _ in 0..10 {
        let target = area * stream.uniform_in(scale.0, scale.1);
        let ratio = stream.uniform_in(RATIO.0.ln(), RATIO.1.ln()).exp();
        let columns = (target * ratio).sqrt().round_ties_even() as usize;
        let rows = (target / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&columns) && (1..=height).contains(&rows) {
            let mut first = |spare: usize| stream.below(spare as u32 + 1) as usize;
            let top = first(height - rows);
            let left = first(width - columns);
            return [Span { first: top, count: rows }, Span { first: left, count: columns }];
        }
    }
    let ratio = width as f64 / height as f64;
    let (rows, columns) = if ratio < RATIO.0 {
        ((width as f64 / RATIO.0).round_ties_even() as usize, width)
    } else if ratio > RATIO.1 {
        (height, (height as f64 * RATIO.1).round_ties_even() as usize)
    } else {
        (height, width)
    };
    let centred = |side: usize, count: usize| Span { first: (side - count) / 2, count };
    [centred(height, rows), centred(width, columns)]
}

/// Flips horizontally.
fn flip(picture: &mut Picture) {
    let ((_, width), channels) = (picture.size(), picture.channels());
    for row in picture.pixels_mut().chunks_exact_mut(width * channels) {
        match channels {
            1 => row.reverse(),
            _ => row.as_chunks_mut::<3>().0.reverse(),
        }
    }
}

/// Applies the four operations in a random order, like torchvision's `ColorJitter`.
fn jitter(picture: &mut Picture, amount: Jitter, stream: &mut Stream) {
    if amount == Jitter::default() {
        return;
    }
    let mut order = [0, 1, 2, 3];
    stream.shuffle(&mut order);
    let mut factor = |amount: f64| stream.uniform_in((1.0 - amount).max(0.0), 1.0 + amount) as f32;
    let [brightness, contrast, saturation] =
        [amount.brightness, amount.contrast, amount.saturation].map(&mut factor);
    let hue = stream.uniform_in(-amount.hue, amount.hue) as f32;
    for operation in order {
        match operation {
            0 if amount.brightness > 0.0 => colour::brightness(picture, brightness),
            1 if amount.contrast > 0.0 => colour::contrast(picture, contrast),
            2 if amount.saturation > 0.0 => colour::saturation(picture, saturation),
            3 if amount.hue > 0.0 => colour::hue(picture, hue),
            _ => {}
        }
    }
}
