//! The range and ticks of an axis.

/// Values that an axis may have ticks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticks {
    /// Whole numbers, such as epochs.
    Whole,
    /// Any round numbers.
    Any,
}

/// The range of an axis, with its ticks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    /// Distance between ticks: 1, 2 or 5 times a power of ten.
    step: f64,
}

impl Scale {
    /// A scale from the smallest to the largest value.
    pub(super) fn tight(values: impl Iterator<Item = f64>, count: usize, ticks: Ticks) -> Self {
        let (low, high) = span(values);
        Self { low, high, step: step(high - low, count, ticks) }
    }

    /// A scale that covers the values and ends at ticks.
    pub(super) fn round(values: impl Iterator<Item = f64>, count: usize, ticks: Ticks) -> Self {
        let Self { low, high, step } = Self::tight(values, count, ticks);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    /// Relative position of a value: 0 at the low end, 1 at the high end.
    pub(super) fn position(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// The ticks, low to high.
    pub(super) fn ticks(&self) -> Vec<f64> {
        // Slightly beyond the ends, for quotients that rounding makes fractional.
        let first = (self.low / self.step - SLACK).ceil();
        let last = (self.high / self.step + SLACK).floor();
        // Multiples of the step; repeated addition would accumulate errors. Adding 0 turns -0 into 0.
        (0..=(last - first) as usize).map(|at| (first + at as f64) * self.step + 0.0).collect()
    }

    /// A tick as text, with just enough digits to differ from its neighbours.
    pub(super) fn name(&self, tick: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        let decimals = if largest >= 1e6 || self.step < 1e-4 {
            let decimals = largest.log10().floor() - self.step.log10().floor();
            return format!("{tick:.*e}", decimals.max(0.0) as usize);
        } else {
            -self.step.log10().floor()
        };
        group_thousands(&format!("{tick:.*}", decimals.max(0.0) as usize))
    }
}

const SLACK: f64 = 1e-6;

/// The smallest and the largest value, adjusted to differ.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let largest = low.abs().max(high.abs());
    // Any closer, and the ticks would be equal in an f64.
    if high - low > 1e-9 * largest {
        return (low, high);
    }
    let margin = if largest == 0.0 { 1.0 } else { largest / 50.0 };
    (low - margin, high + margin)
}

/// The round step that gives at most `count` ticks.
fn step(span: f64, count: usize, ticks: Ticks) -> f64 {
    let least = span / count as f64;
    let decade = 10_f64.powi(least.log10().floor() as i32);
    let factor =
        [1.0, 2.0, 5.0].into_iter().find(|factor| factor * decade >= least * (1.0 - SLACK));
    let step = factor.unwrap_or(10.0) * decade;
    match ticks {
        Ticks::Any => step,
        Ticks::Whole => step.max(1.0),
    }
}

/// Separates the thousands of a number below a million by commas: `12,500`.
fn group_thousands(number: &str) -> String {
    let end = number.find('.').unwrap_or(number.len());
    match end.checked_sub(3).map(|at| number.split_at(at)) {
        Some((thousands, rest)) if thousands.ends_with(|c: char| c.is_ascii_digit()) => {
            format!("{thousands},{rest}")
        }
        _ => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|tick| scale.name(tick)).collect()
    }

    fn round(values: &[f64]) -> Scale {
        Scale::round(values.iter().copied(), 6, Ticks::Any)
    }

    fn tight(values: &[f64]) -> Scale {
        Scale::tight(values.iter().copied(), 10, Ticks::Whole)
    }

    #[test]
    fn steps_are_one_two_or_five_times_a_power_of_ten() {
        assert_eq!(names(&round(&[0.0, 6.0])), ["0", "1", "2", "3", "4", "5", "6"]);
        assert_eq!(names(&round(&[44.4, 97.3])), ["40", "50", "60", "70", "80", "90", "100"]);
        assert_eq!(names(&round(&[0.07, 2.31])), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]);
        assert_eq!(
            names(&round(&[-0.3, 0.3])),
            ["-0.3", "-0.2", "-0.1", "0.0", "0.1", "0.2", "0.3"]
        );
        assert_eq!(
            names(&round(&[0.0, 9e4])),
            ["0", "20,000", "40,000", "60,000", "80,000", "100,000"]
        );
        assert_eq!(names(&round(&[-2e3, 0.0])), ["-2,000", "-1,500", "-1,000", "-500", "0"]);
    }

    #[test]
    fn very_large_and_very_small_ticks_have_exponents() {
        assert_eq!(
            names(&round(&[1e30, 3e30])),
            ["1.0e30", "1.5e30", "2.0e30", "2.5e30", "3.0e30"]
        );
        assert_eq!(
            names(&round(&[1e-6, 3e-6])),
            ["1.0e-6", "1.5e-6", "2.0e-6", "2.5e-6", "3.0e-6"]
        );
    }

    #[test]
    fn whole_ticks_are_whole_and_inside() {
        assert_eq!(names(&tight(&[1.0, 3.0])), ["1", "2", "3"]);
        assert_eq!(
            names(&tight(&[1.0, 20.0])),
            ["2", "4", "6", "8", "10", "12", "14", "16", "18", "20"]
        );
        assert_eq!(names(&tight(&[7.0])), ["7"]);
        assert_eq!(names(&tight(&[0.0])), ["-1", "0", "1"]);
    }

    #[test]
    fn round_scales_cover_their_values() {
        for values in
            [[0.1, 0.30000000000000004], [3.0, 3.0], [-7.2, 1e9], [0.0, 0.0], [1e100, -1e100]]
        {
            let scale = round(&values);
            let ticks = scale.ticks();
            assert!((2..=8).contains(&ticks.len()), "{ticks:?}");
            for value in values {
                assert!((0.0..=1.0).contains(&scale.position(value)), "{value} in {scale:?}");
            }
            let mut names = names(&scale);
            names.dedup();
            assert_eq!(names.len(), ticks.len(), "{names:?}");
        }
    }
}
