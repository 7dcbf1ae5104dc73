//! A model's prediction for an image.

use serde::Serialize;
use vit_model::ModelInfo;

use crate::failure::{Exit, Failure, Result};

/// A prediction.
#[derive(Serialize)]
pub(crate) struct Prediction {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    #[serde(flatten)]
    pub(crate) best: Ranked,
    /// The most probable classes, highest first, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top: Option<Vec<Ranked>>,
    /// One for each class.
    pub(crate) probabilities: Vec<f32>,
}

/// The predicted image.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Subject {
    Picture {
        /// `None` over HTTP.
        #[serde(skip_serializing_if = "Option::is_none")]
        image: Option<String>,
        inverted: bool,
    },
    Example {
        index: usize,
        label: u32,
    },
}

#[derive(Clone, Serialize)]
pub(crate) struct Ranked {
    pub(crate) class: usize,
    /// The class's name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) probability: f32,
}

impl Prediction {
    /// # Errors
    /// If the probabilities are not finite.
    pub(crate) fn of(
        subject: Subject,
        probabilities: Vec<f32>,
        top_k: Option<u16>,
        info: &ModelInfo,
    ) -> Result<Self> {
        if !probabilities.iter().all(|probability| probability.is_finite()) {
            let message = "the model's probabilities are not finite";
            return Err(Failure::new(Exit::File, message));
        }
        let mut ranked: Vec<usize> = (0..probabilities.len()).collect();
        // A stable sort: ties go to the first class, as in an evaluation.
        ranked.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let ranked_as = |class: usize| {
            let name = info.class_names.get(class).filter(|name| **name != class.to_string());
            Ranked { class, name: name.cloned(), probability: probabilities[class] }
        };
        let best = ranked_as(ranked[0]);
        let top = top_k.map(|count| ranked.into_iter().take(count.into()).map(ranked_as).collect());
        Ok(Self { subject, best, top, probabilities })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(probabilities: &[f32], top_k: Option<u16>) -> Result<Prediction> {
        let subject = Subject::Example { index: 0, label: 0 };
        Prediction::of(subject, probabilities.to_vec(), top_k, &ModelInfo::default())
    }

    #[test]
    fn classes_are_ranked_and_ties_go_to_the_first() {
        let prediction = prediction(&[0.2, 0.3, 0.2, 0.3], Some(3)).expect("finite numbers");
        assert_eq!(prediction.best.class, 1);
        let top = prediction.top.expect("asked for");
        assert_eq!(top.iter().map(|ranked| ranked.class).collect::<Vec<_>>(), [1, 3, 0]);
    }

    #[test]
    fn non_finite_probabilities_are_an_error() {
        assert!(prediction(&[0.5, f32::NAN], None).is_err());
    }
}
