//! The random numbers of one (seed, step, site, sample), and distributions drawn from them.

use crate::philox;

/// The numbers of one (seed, step, site, sample), in order.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    place: [u32; 3],
    block: u32,
    buffer: [u32; 4],
    used: usize,
}

impl Stream {
    pub(crate) const fn new(seed: u64, place: [u32; 3]) -> Self {
        Self { seed, place, block: 0, buffer: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.buffer.len() {
            self.buffer = self.next_block();
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Fills `out` with the same numbers as repeated [`next_u32`](Self::next_u32), several blocks at once.
    ///
    /// It is inlined, so it uses wide vector registers if the caller is compiled for them.
    #[inline(always)]
    pub fn fill(&mut self, out: &mut [u32]) {
        let buffered = out.len().min(self.buffer.len() - self.used);
        let (head, rest) = out.split_at_mut(buffered);
        head.fill_with(|| self.next_u32());
        let (groups, rest) = rest.as_chunks_mut::<{ 4 * philox::LANES }>();
        let [sample, step, site] = self.place;
        for group in groups {
            *group = philox::blocks([self.block, sample, step, site], self.seed);
            self.block = self.block.wrapping_add(philox::LANES as u32);
        }
        rest.fill_with(|| self.next_u32());
    }

    /// Uniform in `[0, 1)`, with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        fraction(self.next_u64())
    }

    /// Uniform in `[low, high)`.
    pub fn uniform_in(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Fills `out` with the same numbers as repeated [`uniform_in`](Self::uniform_in).
    #[inline(always)]
    pub fn fill_uniform_in(&mut self, low: f64, high: f64, out: &mut [f64]) {
        let mut bits = [0; 4 * philox::LANES];
        for out in out.chunks_mut(bits.len() / 2) {
            let bits = &mut bits[..2 * out.len()];
            self.fill(bits);
            for (out, &[first, second]) in out.iter_mut().zip(bits.as_chunks().0) {
                *out = low + (high - low) * fraction(u64::from(first) | u64::from(second) << 32);
            }
        }
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Beta(`alpha`, `alpha`) in `[0, 1]`, from two uniform numbers. If `t` has Student's distribution with `2 alpha`
    /// degrees of freedom (Bailey, *Polar Generation of Random Variates with the t-Distribution*, Mathematics of
    /// Computation 62, 1994), then `1/2 + t / (2 sqrt(2 alpha + t²))` has this distribution (Devroye, *Non-Uniform
    /// Random Variate Generation*, 1986, IX.4).
    ///
    /// # Panics
    /// If `alpha` is not positive.
    pub fn symmetric_beta(&mut self, alpha: f64) -> f64 {
        assert!(alpha > 0.0, "expected an alpha above 0, got {alpha}");
        // For uniform u: 1 / (u^(-1/alpha) - 1) = 2 alpha (cos / t)².
        let spread = (-self.uniform().ln() / alpha).exp_m1().recip();
        let cos = (std::f64::consts::TAU * self.uniform()).cos();
        0.5 + 0.5 * cos / (spread + cos * cos).sqrt()
    }

    /// Uniform in `0..bound`, without bias (Lemire, arXiv 1805.10941).
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "expected a bound of at least 1, got 0");
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Shuffles `items` uniformly (Fisher and Yates).
    ///
    /// # Panics
    /// If there are 2³² items or more.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let bound = u32::try_from(last + 1).expect("fewer than 2^32 items");
            items.swap(last, self.below(bound) as usize);
        }
    }

    fn next_block(&mut self) -> [u32; 4] {
        let [sample, step, site] = self.place;
        let numbers = philox::block([self.block, sample, step, site], self.seed);
        self.block = self.block.wrapping_add(1);
        numbers
    }
}

/// The first 53 bits as a number in `[0, 1)`.
fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 * f64::exp2(-53.0)
}

#[cfg(test)]
mod tests {
    use crate::{Random, Site};

    const SITE: Site = Site::named("test");

    #[test]
    fn filling_equals_drawing_one_by_one() {
        for skip in 0..5 {
            for len in [0, 1, 2, 3, 4, 5, 19, 63, 64, 65, 66, 67, 68, 131] {
                let (mut one, mut all) =
                    (Random::new(3).stream(SITE, 0), Random::new(3).stream(SITE, 0));
                for _ in 0..skip {
                    one.next_u32();
                    all.next_u32();
                }
                let singly: Vec<u32> = (0..len).map(|_| one.next_u32()).collect();
                let mut filled = vec![0; len];
                all.fill(&mut filled);
                assert_eq!(filled, singly);
                assert_eq!(one.next_u32(), all.next_u32());
            }
        }
    }

    #[test]
    fn filling_with_uniform_numbers_equals_drawing_one_by_one() {
        for len in [0, 1, 31, 32, 50, 70] {
            let (mut one, mut all) =
                (Random::new(3).stream(SITE, 0), Random::new(3).stream(SITE, 0));
            let singly: Vec<f64> = (0..len).map(|_| one.uniform_in(-1.5, 2.0)).collect();
            let mut filled = vec![0.0; len];
            all.fill_uniform_in(-1.5, 2.0, &mut filled);
            assert_eq!(filled, singly);
            assert_eq!(one.next_u32(), all.next_u32());
        }
    }

    #[test]
    fn moments_match_the_distributions() {
        const COUNT: usize = 100_000;
        let mut stream = Random::new(5).stream(SITE, 0);
        // Six standard errors of each estimate.
        let tolerance = 6.0 / (COUNT as f64).sqrt();
        let uniform: Vec<f64> = (0..COUNT).map(|_| stream.uniform()).collect();
        let normal: Vec<f64> = (0..COUNT).map(|_| stream.normal()).collect();
        let mean = |xs: &[f64]| xs.iter().sum::<f64>() / COUNT as f64;
        let square = |xs: &[f64]| xs.iter().map(|x| x * x).sum::<f64>() / COUNT as f64;
        assert!((mean(&uniform) - 0.5).abs() < tolerance * 0.29);
        assert!((square(&uniform) - 1.0 / 3.0).abs() < tolerance * 0.30);
        assert!(mean(&normal).abs() < tolerance);
        assert!((square(&normal) - 1.0).abs() < tolerance * 1.42);
        assert!(uniform.iter().all(|x| (0.0..1.0).contains(x)));
    }

    /// `count` numbers from Beta(`alpha`, `alpha`).
    fn betas(alpha: f64, count: usize) -> Vec<f64> {
        let mut stream = Random::new(8).stream(SITE, 0);
        (0..count).map(|_| stream.symmetric_beta(alpha)).collect()
    }

    #[test]
    fn beta_has_its_moments() {
        const COUNT: usize = 100_000;
        for alpha in [0.01, 0.1, 0.2, 0.5, 0.99, 1.0, 1.01, 3.0, 50.0, 1e6] {
            let central = betas(alpha, COUNT).into_iter().map(|x| x - 0.5).collect::<Vec<_>>();
            let moment = |power| central.iter().map(|x| x.powi(power)).sum::<f64>() / COUNT as f64;
            let [second, fourth] = [
                1.0 / (4.0 * (2.0 * alpha + 1.0)),
                3.0 / (16.0 * (2.0 * alpha + 1.0) * (2.0 * alpha + 3.0)),
            ];
            // Six standard errors of each estimate.
            let tolerance = 6.0 / (COUNT as f64).sqrt();
            let mean = moment(1);
            assert!(mean.abs() < tolerance * second.sqrt(), "{alpha}: {mean}");
            let error = (fourth - second * second).sqrt();
            let variance = moment(2);
            assert!((variance - second).abs() < tolerance * error, "{alpha}: {variance}");
        }
    }

    /// Kolmogorov-Smirnov test, for alphas with an elementary distribution function.
    #[test]
    fn beta_has_its_distribution_function() {
        const COUNT: usize = 100_000;
        let arcsine = |x: f64| std::f64::consts::FRAC_2_PI * x.sqrt().asin();
        let cases: [(f64, &dyn Fn(f64) -> f64); 4] = [
            (0.5, &arcsine),
            (1.0, &|x| x),
            (2.0, &|x| x * x * (3.0 - 2.0 * x)),
            (3.0, &|x| x.powi(3) * (10.0 - 15.0 * x + 6.0 * x * x)),
        ];
        for (alpha, distribution) in cases {
            let mut drawn = betas(alpha, COUNT);
            drawn.sort_by(f64::total_cmp);
            let distance = |(rank, &x): (usize, &f64)| {
                let below = distribution(x) - rank as f64 / COUNT as f64;
                below.abs().max((below - 1.0 / COUNT as f64).abs())
            };
            let largest = drawn.iter().enumerate().map(distance).fold(0.0, f64::max);
            // Exceeded by chance once in a million.
            assert!(largest * (COUNT as f64).sqrt() < 2.7, "{alpha}: {largest}");
        }
        // Near 0 it is a power law: P(x < h) approaches h^0.2 / (0.2 B(0.2, 0.2)).
        let near = betas(0.2, COUNT).into_iter().filter(|&x| x < 1e-3).count();
        let expected = COUNT as f64 * 1e-3_f64.powf(0.2) / (0.2 * 9.501_501);
        // Six standard deviations of a binomial count.
        assert!((near as f64 - expected).abs() < 650.0, "{near} {expected}");
    }

    #[test]
    fn beta_is_in_0_to_1_for_any_alpha() {
        for alpha in [f64::MIN_POSITIVE, 1e-300, 1e-3, 1e300, f64::MAX] {
            let drawn = betas(alpha, 1000);
            assert!(drawn.iter().all(|x| (0.0..=1.0).contains(x)), "{alpha}");
        }
    }

    #[test]
    fn below_reaches_every_value_evenly() {
        let mut stream = Random::new(6).stream(SITE, 0);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Six standard deviations of a binomial count of mean 10,000.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 560), "{counts:?}");
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..1000).collect();
        Random::new(7).stream(SITE, 0).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.into_iter().eq(0..1000));
    }
}
