//! Mixup (Zhang et al., arXiv 1710.09412) blends an image with another. CutMix (Yun et al., arXiv 1905.04899) pastes a
//! rectangle of the other image.

use std::borrow::Cow;
use std::ops::Range;

use vit_random::Stream;

use super::erasing::Rectangle;

/// The image to mix with.
#[derive(Clone, Debug)]
pub(crate) struct Partner {
    /// Index in the dataset; may be the image's own.
    pub(crate) index: u32,
    /// Weight of the partner in the result.
    pub(crate) share: f32,
    /// CutMix: the pasted rectangle. `None` is mixup.
    pub(crate) cut: Option<Rectangle>,
}

impl Partner {
    /// Draws a partner uniformly from `among` and its weight from Beta(`alpha`, `alpha`). The first `alpha` is mixup's,
    /// the second CutMix's; if both are above 0, each is used half the time.
    pub(super) fn drawn(
        [mixup, cutmix]: [f64; 2],
        among: &[u32],
        (height, width): (usize, usize),
        stream: &mut Stream,
    ) -> Self {
        let count = u32::try_from(among.len()).expect("fewer than 2^32 images");
        let index = among[stream.below(count) as usize];
        let cuts = cutmix > 0.0 && (mixup == 0.0 || stream.uniform() < 0.5);
        let share = stream.symmetric_beta(if cuts { cutmix } else { mixup });
        if !cuts {
            return Self { index, share: share as f32, cut: None };
        }
        let cut = Rectangle::of_share(share, (height, width), stream);
        // Rounding to pixels and clipping at the border change the share.
        let share = cut.area() as f32 / (height * width) as f32;
        Self { index, share, cut: Some(cut) }
    }
}

/// The bytes of an image, and of the image mixed into it, if any.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    image: &'a [u8],
    /// With its weight.
    other: Option<(&'a [u8], f32)>,
}

impl<'a> Source<'a> {
    pub(crate) const fn of(image: &'a [u8]) -> Self {
        Self { image, other: None }
    }

    pub(crate) const fn mixed(self, other: &'a [u8], share: f32) -> Self {
        Self { other: Some((other, share)), ..self }
    }

    /// One channel of `pixels` pixels.
    pub(super) fn channel(&self, channel: usize, pixels: usize) -> Self {
        let of = |image: &'a [u8]| &image[channel * pixels..][..pixels];
        Self { image: of(self.image), other: self.other.map(|(other, share)| (of(other), share)) }
    }

    /// Bytes that are 0 where both images are black.
    pub(super) fn ink(&self) -> Cow<'a, [u8]> {
        match self.other {
            None => Cow::Borrowed(self.image),
            Some((other, _)) => self.image.iter().zip(other).map(|(a, b)| a | b).collect(),
        }
    }

    /// Writes the mixed values of these pixels. `values` maps bytes to values; black in both images stays exactly
    /// black.
    pub(super) fn write(&self, pixels: Range<usize>, values: &[f32; 256], out: &mut [f32]) {
        for (value, &byte) in out.iter_mut().zip(&self.image[pixels.clone()]) {
            *value = values[usize::from(byte)];
        }
        let Some((other, share)) = self.other else { return };
        for (value, &byte) in out.iter_mut().zip(&other[pixels]) {
            *value += share * (values[usize::from(byte)] - *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vit_random::{Random, Site};

    #[test]
    fn partners_are_uniform_and_weights_follow_alpha() {
        const COUNT: u32 = 20_000;
        let among = [3, 5, 8, 13];
        let (mut counts, mut shares) = ([0_u32; 4], Vec::new());
        for sample in 0..COUNT {
            let mut stream = Random::new(1).at_step(2).stream(Site::named("test"), sample);
            let Partner { index, share, cut } =
                Partner::drawn([0.2, 0.0], &among, (5, 7), &mut stream);
            assert!(cut.is_none());
            counts[among.iter().position(|&each| each == index).expect("one of them")] += 1;
            shares.push(f64::from(share));
        }
        // Six standard deviations of a binomial count of mean 5,000.
        assert!(counts.iter().all(|&count| count.abs_diff(5000) < 370), "{counts:?}");
        let mean = |of: &dyn Fn(f64) -> f64| shares.iter().map(|&x| of(x)).sum::<f64>() / 2e4;
        // Mean 1/2 and variance 1 / (4 (2 α + 1)), to six standard errors.
        assert!((mean(&|x| x) - 0.5).abs() < 0.018);
        assert!((mean(&|x| (x - 0.5).powi(2)) - 1.0 / 5.6).abs() < 0.004);
    }

    #[test]
    fn cutmix_weight_is_the_pasted_area_and_mixup_is_as_likely() {
        let (height, width) = (8, 12);
        let (mut cuts, mut shares) = (0, 0.0);
        for sample in 0..2000 {
            let mut stream = Random::new(1).stream(Site::named("test"), sample);
            let partner = Partner::drawn([0.8, 1.0], &[4], (height, width), &mut stream);
            let Some(cut) = partner.cut else { continue };
            let mut image = vec![0; 2 * height * width];
            cut.paste(&vec![1; 2 * height * width], &mut image, height * width);
            let [first, second] = [0, 1].map(|channel| {
                let plane = &image[channel * height * width..][..height * width];
                plane.iter().map(|&byte| usize::from(byte)).sum::<usize>()
            });
            assert_eq!(first, second);
            assert!((partner.share - first as f32 / 96.0).abs() < 1e-6);
            cuts += 1;
            shares += f64::from(partner.share);
        }
        // Six standard deviations of a binomial count of mean 1,000.
        assert!((866..1134).contains(&cuts), "{cuts}");
        // The mean of a uniform share, less the part clipped at the border.
        let mean = shares / f64::from(cuts);
        assert!((0.2..0.5).contains(&mean), "{mean}");
    }

    #[test]
    fn weight_zero_or_one_gives_one_of_the_two_images() {
        let values = std::array::from_fn(|byte| byte as f32 - 1.0);
        let mixed = |share| {
            let mut out = [f32::NAN; 3];
            Source::of(&[9, 0, 2, 0]).mixed(&[9, 4, 0, 0], share).write(1..4, &values, &mut out);
            out
        };
        assert_eq!(mixed(0.0), [-1.0, 1.0, -1.0]);
        assert_eq!(mixed(1.0), [3.0, -1.0, -1.0]);
        assert_eq!(mixed(0.25), [0.0, 0.5, -1.0]);
    }

    #[test]
    fn ink_covers_both_images() {
        let source = Source::of(&[0, 0, 2, 3]);
        assert_eq!(*source.ink(), [0, 0, 2, 3]);
        assert_eq!(*source.mixed(&[0, 4, 0, 1], 0.5).ink(), [0, 4, 2, 3]);
    }
}
