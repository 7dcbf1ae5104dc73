//! Augmentation: small random changes of the training images, different in each epoch.

mod erasing;
mod mixup;
mod warp;

use serde::{Deserialize, Serialize};
use vit_random::{Random, Site};

use self::erasing::Rectangle;
pub(crate) use self::mixup::{Partner, Source};
use self::warp::{Affine, Canvas, Elastic};
use crate::normalization::Table;
use crate::{Error, Result};

/// Augmentation settings. Each is a maximum, drawn uniformly up to there; the default changes nothing.
///
/// The result is a function of (seed, epoch, index) alone. Shift, rotation, scale, shear and elastic displacement are
/// one bilinear resampling, with black beyond the border. Each setting has its own random numbers, so enabling one does
/// not change the others. Mixup comes first: both images then get the first one's changes, computed as one resampling
/// of their mean.
///
/// PyTorch equivalent: torchvision's `RandomAffine`, `ElasticTransform` and `RandomErasing`, and timm's `Mixup` in mode
/// `elem`, with other random numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Pixels, horizontally and vertically, either way.
    pub shift: f64,
    /// Degrees, either way.
    pub rotation: f64,
    /// Relative enlargement; images shrink as often, by the inverse factor.
    pub scale: f64,
    /// Degrees, either way.
    pub shear: f64,
    /// Maximum displacement, in pixels, of the nodes of a 5x5 grid; bilinear between the nodes.
    pub elastic: f64,
    /// Probability that a rectangle of 2 to 20 % of the image becomes black (arXiv 1708.04896).
    pub erase: f64,
    /// Mixup (arXiv 1710.09412): α of Beta(α, α). Image and label become weighted means of two training samples. With α
    /// below 1 most weights are near 0 or 1; with α = 1 they are uniform.
    ///
    /// The paper draws one weight a batch and the partners within the batch. Here both are drawn for each image, so the
    /// result does not depend on the batch size.
    pub mixup: f64,
    /// CutMix (arXiv 1905.04899): α of Beta(α, α), the share of the area that is pasted from another image; labels are
    /// mixed by that share. With mixup too, each image gets one of the two.
    #[serde(skip_serializing_if = "is_zero")]
    pub cutmix: f64,
    /// Random resized crop (torchvision's `RandomResizedCrop`): smallest share of the area that is cropped and resized
    /// to the image; 0 is off.
    #[serde(skip_serializing_if = "is_zero")]
    pub crop_scale: f64,
    /// Probability of a horizontal flip.
    #[serde(skip_serializing_if = "is_zero")]
    pub flip: f64,
    /// Colour jitter (torchvision's `ColorJitter`): brightness, contrast and saturation change by up to this factor,
    /// the hue by a quarter of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub jitter: f64,
    /// Automatic augmentation policy, in addition.
    #[serde(skip_serializing_if = "Policy::is_none")]
    pub policy: Policy,
}

/// An automatic augmentation policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// None.
    #[default]
    None,
    /// TrivialAugment (arXiv 2103.10158): one random operation of random strength.
    Trivial,
}

impl Policy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl From<Policy> for vit_pictures::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::None => Self::None,
            Policy::Trivial => Self::Trivial,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Augment {
    /// Whether no setting changes images.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn check(&self) -> Result<()> {
        let settings = [
            ("shift", self.shift, f64::INFINITY, "of at least 0"),
            ("rotation", self.rotation, 180.0, "between 0 and 180"),
            ("scale", self.scale, f64::INFINITY, "of at least 0"),
            ("shear", self.shear, 80.0, "between 0 and 80"),
            ("elastic", self.elastic, f64::INFINITY, "of at least 0"),
            ("erase", self.erase, 1.0, "between 0 and 1"),
            ("mixup", self.mixup, f64::INFINITY, "of at least 0"),
            ("cutmix", self.cutmix, f64::INFINITY, "of at least 0"),
            ("crop_scale", self.crop_scale, 1.0, "between 0 and 1"),
            ("flip", self.flip, 1.0, "between 0 and 1"),
            ("jitter", self.jitter, 2.0, "between 0 and 2"),
        ];
        for (field, value, most, expected) in settings {
            if !(value.is_finite() && (0.0..=most).contains(&value)) {
                return Err(Error::Augment { field, expected, value });
            }
        }
        Ok(())
    }

    fn moves(&self) -> bool {
        [self.shift, self.rotation, self.scale, self.shear, self.elastic] != [0.0; 5]
    }

    /// Whether training uses random views of the picture: crop, flip, jitter or policy.
    pub(crate) fn views(&self) -> bool {
        [self.crop_scale, self.flip, self.jitter] != [0.0; 3] || self.policy != Policy::None
    }

    /// Defined by vit-pictures.
    pub(crate) fn jitter(&self) -> vit_pictures::Jitter {
        let (brightness, hue) = (self.jitter, self.jitter / 4.0);
        vit_pictures::Jitter { brightness, contrast: brightness, saturation: brightness, hue }
    }

    /// Whether images are mixed with others.
    #[must_use]
    pub fn mixes(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }
}

/// Augments images of one size, reusing its buffers.
pub(crate) struct Augmenter<'a> {
    augment: &'a Augment,
    random: Random,
    /// Normalised value of each byte, one table per channel; byte 0 is black.
    tables: &'a [Table],
    canvas: Canvas,
}

const AFFINE: Site = Site::named("augment.affine");
const ELASTIC: Site = Site::named("augment.elastic");
const ERASE: Site = Site::named("augment.erase");
const MIXUP: Site = Site::named("augment.mixup");

impl<'a> Augmenter<'a> {
    /// For images of `size` (height, width); `run` is (seed, epoch).
    pub(crate) fn new(
        augment: &'a Augment,
        (seed, epoch): (u64, u64),
        tables: &'a [Table],
        size: (usize, usize),
    ) -> Self {
        let random = Random::new(seed).at_step(epoch);
        Self { augment, random, tables, canvas: Canvas::new(size) }
    }

    /// The partner of the image with this index, from `among`, which must not be empty.
    pub(crate) fn partner(&self, index: u32, among: &[u32]) -> Partner {
        let Augment { mixup, cutmix, .. } = *self.augment;
        let stream = &mut self.random.stream(MIXUP, index);
        Partner::drawn([mixup, cutmix], among, self.canvas.size(), stream)
    }

    /// Appends the augmented image with this index: normalised values, channel by channel and row by row.
    pub(crate) fn append(&mut self, source: Source<'_>, index: u32, out: &mut Vec<f32>) {
        let (height, width) = self.canvas.size();
        let warp = self.augment.moves().then(|| {
            let affine = Affine::drawn(self.augment, &mut self.random.stream(AFFINE, index));
            let elastic = (self.augment.elastic > 0.0).then(|| {
                Elastic::drawn(self.augment.elastic, &mut self.random.stream(ELASTIC, index))
            });
            (affine, elastic)
        });
        let erased = (self.augment.erase > 0.0).then(|| {
            let mut stream = self.random.stream(ERASE, index);
            let erases = stream.uniform() < self.augment.erase;
            erases.then(|| Rectangle::drawn((height, width), &mut stream))
        });
        for (channel, values) in self.tables.iter().enumerate() {
            let source = source.channel(channel, height * width);
            let begin = out.len();
            out.resize(begin + height * width, values[0]);
            let image = &mut out[begin..];
            match &warp {
                Some((affine, elastic)) => {
                    self.canvas.fill(source, values);
                    self.canvas.warp(affine, elastic.as_ref(), image);
                }
                None => source.write(0..image.len(), values, image),
            }
            if let Some(rectangle) = erased.as_ref().and_then(Option::as_ref) {
                rectangle.fill(image, values[0]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (9, 12);
    const BLACK: f32 = -1.0;
    const VALUES: &Table = &crate::normalization::HALF;

    /// A smooth hill on black.
    fn hill() -> Vec<u8> {
        let (height, width) = SIZE;
        let value = |y: usize, x: usize| {
            let (y, x) = (y as f32 - 4.0, x as f32 - 5.5);
            (250.0 - 12.0 * (y * y + x * x)).max(0.0) as u8
        };
        (0..height * width).map(|at| value(at / width, at % width)).collect()
    }

    fn plain() -> Vec<f32> {
        hill().iter().map(|&byte| VALUES[usize::from(byte)]).collect()
    }

    fn augmenter(augment: &Augment, seed: u64, epoch: u64) -> Augmenter<'_> {
        Augmenter::new(augment, (seed, epoch), std::slice::from_ref(VALUES), SIZE)
    }

    fn augmented(augment: &Augment, seed: u64, epoch: u64, index: u32) -> Vec<f32> {
        let mut out = Vec::new();
        augmenter(augment, seed, epoch).append(Source::of(&hill()), index, &mut out);
        out
    }

    const ALL: Augment = Augment {
        shift: 2.0,
        rotation: 15.0,
        scale: 0.2,
        shear: 10.0,
        elastic: 1.0,
        erase: 0.5,
        mixup: 0.0,
        cutmix: 0.0,
        crop_scale: 0.0,
        flip: 0.0,
        jitter: 0.0,
        policy: Policy::None,
    };

    #[test]
    fn an_image_is_a_function_of_seed_epoch_and_index() {
        let here = augmented(&ALL, 1, 2, 3);
        assert_eq!(here, augmented(&ALL, 1, 2, 3));
        for (seed, epoch, index) in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)] {
            assert_ne!(here, augmented(&ALL, seed, epoch, index));
        }
    }

    #[test]
    fn earlier_images_do_not_affect_later_ones() {
        let mut augmenter = augmenter(&ALL, 1, 2);
        let mut out = Vec::new();
        augmenter.append(Source::of(&[7; 9 * 12]), 8, &mut Vec::new());
        augmenter.append(Source::of(&hill()), 3, &mut out);
        assert_eq!(out, augmented(&ALL, 1, 2, 3));
    }

    #[test]
    fn each_setting_changes_images_and_zero_changes_none() {
        let single = [
            Augment { shift: 2.0, ..Augment::default() },
            Augment { rotation: 30.0, ..Augment::default() },
            Augment { scale: 0.3, ..Augment::default() },
            Augment { shear: 20.0, ..Augment::default() },
            Augment { elastic: 1.0, ..Augment::default() },
            Augment { erase: 1.0, ..Augment::default() },
        ];
        for augment in single {
            let changed = (0..20).filter(|&index| augmented(&augment, 1, 1, index) != plain());
            assert!(changed.count() >= 10, "{augment:?}");
        }
        assert_eq!(augmented(&Augment::default(), 1, 1, 0), plain());
        // Goes through the resampling, with a strength that rounding makes 0.
        let nearly = Augment { rotation: 1e-300, ..Augment::default() };
        assert_eq!(augmented(&nearly, 1, 1, 0), plain());
    }

    #[test]
    fn values_stay_within_the_range_of_the_image() {
        let brightest = plain().into_iter().fold(BLACK, f32::max);
        for index in 0..200 {
            for value in augmented(&ALL, 5, 1, index) {
                assert!((BLACK..=brightest).contains(&value), "{value}");
            }
        }
    }

    #[test]
    fn rectangles_are_erased_with_the_given_probability() {
        let augment = Augment { erase: 0.25, ..Augment::default() };
        let white = vec![255; 9 * 12];
        let mut augmenter = augmenter(&augment, 1, 1);
        let mut erased = 0;
        for index in 0..2000 {
            let mut out = Vec::new();
            augmenter.append(Source::of(&white), index, &mut out);
            let black = out.iter().filter(|&&value| value == BLACK).count();
            // 2 to 20 % of 108 pixels, rounded on each side.
            assert!(black == 0 || (1..=30).contains(&black), "{black}");
            erased += usize::from(black > 0);
        }
        // Six standard deviations of a binomial count of mean 500.
        assert!((384..616).contains(&erased), "{erased}");
    }

    #[test]
    fn out_of_range_settings_are_named() {
        let message = |augment: Augment| augment.check().unwrap_err().to_string();
        assert_eq!(
            message(Augment { erase: 2.0, ..ALL }),
            "expected augment.erase between 0 and 1, got 2"
        );
        assert_eq!(
            message(Augment { shift: f64::NAN, ..ALL }),
            "expected augment.shift of at least 0, got NaN"
        );
        assert_eq!(
            message(Augment { mixup: -0.2, ..ALL }),
            "expected augment.mixup of at least 0, got -0.2"
        );
        assert!(ALL.check().is_ok());
    }
}
