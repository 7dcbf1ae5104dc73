//! The score bias and its gradient.

use super::kernel::AddedToHeads;
use super::op::{Attending, BiasShape};
use super::sample::{Rows, SampleLayout, SampleShape, Samples};
use super::softmax::Added;
use crate::parallel;
use crate::slices::add_scaled;

/// A bias (batch or 1, heads or 1, queries, tokens).
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    values: &'a [f32],
    shape: BiasShape,
}

impl<'a> Bias<'a> {
    pub(crate) fn new(values: &'a [f32], shape: BiasShape) -> Self {
        Self { values, shape }
    }

    /// Strides between samples and between heads; 0 if all share the bias.
    fn strides(self) -> [usize; 2] {
        let [batch, heads, queries, tokens] = self.shape;
        let of_head = queries * tokens;
        [if batch == 1 { 0 } else { heads * of_head }, if heads == 1 { 0 } else { of_head }]
    }

    fn sample(self, sample: usize) -> (Rows<'a>, usize) {
        let [of_sample, of_head] = self.strides();
        let data = &self.values[sample * of_sample..];
        (Rows { data, stride: self.shape[3] }, of_head)
    }

    /// For each number, the sum of the gradients of the scores it was added to, sample by sample and head by head.
    pub(super) fn gradient(self, samples: &Samples, of_scores: &[f32]) -> Vec<f32> {
        let [_, _, queries, tokens] = self.shape;
        let [of_sample, of_head] = self.strides();
        let mut total = vec![0.0; self.values.len()];
        let scores = samples.parts(of_scores, SampleShape::weights);
        // Pieces are rows, so sums go in sample order on any number of threads.
        let rows = total.chunks_exact_mut(tokens).enumerate();
        parallel::for_each(of_scores.len(), rows, |(row, total)| {
            let (part, query) = (row / queries, row % queries);
            for (sample, (SampleLayout { shape, .. }, scores)) in
                samples.layouts().iter().zip(&scores).enumerate()
            {
                for head in 0..shape.heads {
                    let place = (sample * of_sample + head * of_head) / (queries * tokens);
                    if place == part && query < shape.queries {
                        let start = head * shape.head_weights() + query * shape.weights_row();
                        add_scaled(total, 1.0, &scores[start..][..shape.tokens]);
                    }
                }
            }
        });
        total
    }
}

impl Attending {
    /// Everything that is added to a sample's scores.
    pub(super) fn added<'a>(&'a self, sample: usize, bias: Option<Bias<'a>>) -> AddedToHeads<'a> {
        let mask = self.mask.as_ref().map(|mask| mask.row(sample));
        let bias = bias.map(|bias| bias.sample(sample));
        let added = Added { mask, causal: self.causal, bias: bias.map(|(rows, _)| rows) };
        AddedToHeads { added, bias_of_head: bias.map_or(0, |(_, of_head)| of_head) }
    }
}
