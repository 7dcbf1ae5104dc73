//! Mixup (Zhang et al., arXiv 1710.09412): an image becomes a mean of itself and another.

use vit_random::Stream;

/// What an image is mixed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Partner {
    /// Its index in the set, which may be that of the image itself.
    pub(crate) index: u32,
    /// How much of the mean it is.
    pub(crate) share: f32,
}

impl Partner {
    /// One of `among`, each as likely as any other, with a share of Beta(`alpha`, `alpha`).
    pub(super) fn drawn(alpha: f64, among: &[u32], stream: &mut Stream) -> Self {
        let count = u32::try_from(among.len()).expect("fewer than 2^32 images");
        let index = among[stream.below(count) as usize];
        Self { index, share: stream.symmetric_beta(alpha) as f32 }
    }

    /// Mixes what becomes of the partner into what becomes of the image.
    pub(crate) fn mix(&self, partner: &[f32], image: &mut [f32]) {
        for (value, other) in image.iter_mut().zip(partner) {
            *value = (1.0 - self.share) * *value + self.share * other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vit_random::{Random, Site};

    #[test]
    fn partners_are_drawn_evenly_and_shares_by_alpha() {
        const COUNT: u32 = 20_000;
        let among = [3, 5, 8, 13];
        let (mut counts, mut shares) = ([0_u32; 4], Vec::new());
        for sample in 0..COUNT {
            let mut stream = Random::new(1).at_step(2).stream(Site::named("test"), sample);
            let Partner { index, share } = Partner::drawn(0.2, &among, &mut stream);
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
    fn the_mean_is_each_image_where_the_other_has_no_share() {
        let mixed = |share| {
            let mut image = [-1.0, 0.5];
            Partner { index: 0, share }.mix(&[0.5, 1.0], &mut image);
            image
        };
        assert_eq!(
            (mixed(0.0), mixed(1.0), mixed(0.25)),
            ([-1.0, 0.5], [0.5, 1.0], [-0.625, 0.625])
        );
    }
}
