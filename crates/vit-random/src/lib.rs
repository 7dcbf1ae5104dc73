#![doc = include_str!("../README.md")]

mod philox;
mod stream;

pub use stream::Stream;

/// The name that random numbers are drawn under, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site(u32);

impl Site {
    /// The site of this name: the 32-bit FNV-1a hash of its bytes.
    #[must_use]
    pub const fn named(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash = 0x811c_9dc5_u32;
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
            at += 1;
        }
        Self(hash)
    }

    /// The name's hash.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A source of random numbers: a seed, a step and the index of the first sample in view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Random {
    seed: u64,
    step: u32,
    first_sample: u32,
}

impl Random {
    /// A source at step 0 and sample 0.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, step: 0, first_sample: 0 }
    }

    /// The same seed at another step, modulo 2³².
    #[must_use]
    pub const fn at_step(self, step: u64) -> Self {
        Self { step: step as u32, ..self }
    }

    /// The same seed and step for a shard whose sample 0 is sample `first` here.
    #[must_use]
    pub const fn from_sample(self, first: u32) -> Self {
        Self { first_sample: self.first_sample.wrapping_add(first), ..self }
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The step, modulo 2³².
    #[must_use]
    pub const fn step(&self) -> u32 {
        self.step
    }

    /// The index of the first sample in view.
    #[must_use]
    pub const fn first_sample(&self) -> u32 {
        self.first_sample
    }

    /// The numbers that `site` draws for one sample: the blocks of Philox4x32-10 under the key `seed`, at the counters
    /// (block, sample, step, site).
    #[must_use]
    pub const fn stream(&self, site: Site, sample: u32) -> Stream {
        let sample = self.first_sample.wrapping_add(sample);
        Stream::new(self.seed, [sample, self.step, site.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(random: Random, site: &str, sample: u32) -> u32 {
        random.stream(Site::named(site), sample).next_u32()
    }

    #[test]
    fn seed_step_site_and_sample_each_change_the_numbers() {
        let random = Random::new(1).at_step(2);
        let here = first(random, "a", 3);
        assert_eq!(here, first(random, "a", 3));
        assert_ne!(here, first(Random::new(2).at_step(2), "a", 3));
        assert_ne!(here, first(Random::new(1).at_step(3), "a", 3));
        assert_ne!(here, first(random, "b", 3));
        assert_ne!(here, first(random, "a", 4));
    }

    #[test]
    fn shards_draw_the_same_as_the_whole_batch() {
        let random = Random::new(9).at_step(1);
        let nested = random.from_sample(8).from_sample(3);
        assert_eq!(first(random, "a", 12), first(nested, "a", 1));
    }
}
