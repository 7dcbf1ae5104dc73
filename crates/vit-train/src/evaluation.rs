//! How well a model does on samples whose labels are known.

/// Predictions beside labels, in the order of the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// The class with the largest output, the first of equals.
    pub predictions: Vec<u32>,
    /// The class that is right.
    pub labels: Vec<u32>,
}

/// How often each class was taken for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// `counts[label][prediction]`
    pub counts: Vec<Vec<usize>>,
}

impl Evaluation {
    /// Adds what comes after.
    pub(crate) fn extend(&mut self, next: Self) {
        self.loss_sum += next.loss_sum;
        self.predictions.extend(next.predictions);
        self.labels.extend(next.labels);
    }

    /// Number of samples.
    #[must_use]
    pub fn total(&self) -> usize {
        self.labels.len()
    }

    /// Number of samples classified right.
    #[must_use]
    pub fn correct(&self) -> usize {
        self.labels.iter().zip(&self.predictions).filter(|(label, guess)| label == guess).count()
    }

    /// Share of samples classified right; not a number without samples.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct() as f64 / self.total() as f64
    }

    /// Mean loss of a sample; not a number without samples.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.total() as f64
    }

    /// How often each of `classes` classes was taken for each.
    ///
    /// # Panics
    /// If a label or prediction is not below `classes`.
    #[must_use]
    pub fn confusion(&self, classes: usize) -> Confusion {
        let mut counts = vec![vec![0; classes]; classes];
        for (&label, &prediction) in self.labels.iter().zip(&self.predictions) {
            counts[label as usize][prediction as usize] += 1;
        }
        Confusion { counts }
    }
}

/// The first index of the largest value; values that are no numbers are never the largest.
pub(crate) fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] || values[best].is_nan() {
            best = index;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_and_confusion_count_the_same_samples() {
        let evaluation =
            Evaluation { loss_sum: 6.0, predictions: vec![0, 1, 1, 2], labels: vec![0, 1, 2, 2] };
        assert_eq!(evaluation.accuracy(), 0.75);
        assert_eq!(evaluation.loss(), 1.5);
        let confusion = evaluation.confusion(3);
        assert_eq!(confusion.counts, [[1, 0, 0], [0, 1, 0], [0, 1, 1]]);
    }

    #[test]
    fn the_first_of_equals_is_taken_and_nan_never() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -1.0, -2.0]), 1);
    }
}
