//! Statistics of repeated timings.

use std::time::Duration;

/// Sorted times of repetitions.
pub(super) struct Times(Vec<Duration>);

impl Times {
    /// From at least one time.
    pub(super) fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "a benchmark times something");
        times.sort_unstable();
        Self(times)
    }

    pub(super) fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// The 10th percentile.
    pub(super) fn p10(&self) -> Duration {
        self.quantile(0.1)
    }

    /// The 90th percentile.
    pub(super) fn p90(&self) -> Duration {
        self.quantile(0.9)
    }

    /// Interpolates linearly, like NumPy's `quantile`.
    fn quantile(&self, share: f64) -> Duration {
        let at = share * (self.0.len() - 1) as f64;
        let (below, above) = (self.0[at.floor() as usize], self.0[at.ceil() as usize]);
        below + (above - below).mul_f64(at.fract())
    }
}

/// Repetitions per second, for `count` in this time.
pub(super) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

pub(super) fn microseconds(time: Duration) -> f64 {
    1e6 * time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_nearest_times() {
        let times =
            |ms: &[u64]| Times::new(ms.iter().map(|&ms| Duration::from_millis(ms)).collect());
        assert_eq!(times(&[5]).p90(), Duration::from_millis(5));
        assert_eq!(times(&[4, 1, 2]).median(), Duration::from_millis(2));
        assert_eq!(times(&[4, 1]).median(), Duration::from_micros(2500));
        let eleven: Vec<u64> = (0..11).rev().collect();
        assert_eq!(times(&eleven).p10(), Duration::from_millis(1));
        assert_eq!(times(&eleven).p90(), Duration::from_millis(9));
        assert_eq!(rate(64, Duration::from_millis(2)), 32_000.0);
    }
}
