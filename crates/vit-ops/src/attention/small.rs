//! Attention of few tokens, or of narrow heads: sample by sample within registers.

use std::sync::OnceLock;

use super::inputs::{Gradients, Inputs};
use super::kernel::{Backward, Columns, Weigh, WeighValues};
use super::op::Form;
use super::sample::SampleShape;
use super::{Attend, AttentionDropout, AttentionShape, TokenMask};
use crate::dropout::Masks;
use crate::{parallel, simd};

/// What the backward pass needs: the attention weights (batch, heads, queries, `weights_row`), and what dropout
/// left of them.
struct Weights {
    before_dropout: Vec<f32>,
    after_dropout: Option<Vec<f32>>,
}

/// The form for heads of at most [`WIDEST_HEAD`](super::kernel::WIDEST_HEAD) numbers.
pub(super) struct SmallAttention {
    shape: AttentionShape,
    scale: f32,
    mask: Option<TokenMask>,
    dropout: Option<AttentionDropout>,
    /// Whether there will be a backward pass.
    tracked: bool,
    weights: OnceLock<Weights>,
}

impl SmallAttention {
    pub(super) fn new(shape: AttentionShape, attend: &Attend, tracked: bool) -> Self {
        let Attend { scale, mask, dropout, .. } = *attend;
        let (scale, mask) = (scale as f32, mask.cloned());
        Self { shape, scale, mask, dropout, tracked, weights: OnceLock::new() }
    }

    /// The outputs of all samples, and their weights where somebody will ask for them.
    fn weigh(&self, inputs: Inputs) -> (Vec<f32>, Weights) {
        let AttentionShape { batch, sample: shape } = self.shape;
        let of_batch = |kept: bool| vec![0.0; if kept { batch * shape.weights() } else { 0 }];
        let of_sample = |needed: bool| vec![0.0; if needed { shape.weights() } else { 0 }];
        let (tracked, drops) = (self.tracked, self.dropout.is_some());
        let mut before_dropout = of_batch(tracked);
        let mut after_dropout = of_batch(tracked && drops);
        let mut ys = vec![0.0; batch * shape.output()];
        let mut before = before_dropout.chunks_exact_mut(shape.weights());
        let mut after = after_dropout.chunks_exact_mut(shape.weights());
        let each = ys.chunks_exact_mut(shape.output()).enumerate();
        let pieces = each.map(|(index, ys)| (index, ys, before.next(), after.next()));
        let room = || {
            let masks = self.dropout.map(|dropout| DropWeights::new(shape, dropout));
            (Columns::new(shape), masks, of_sample(!tracked), of_sample(!tracked && drops))
        };
        parallel::for_each_with(
            self.shape.multiply_adds(2),
            pieces,
            room,
            |(columns, masks, weights, dropped), (index, ys, before, after)| {
                let sample = inputs.sample(shape, index);
                let mask = self.mask.as_ref().map(|mask| mask.row(index));
                let weights = before.unwrap_or(weights);
                simd::run(Weigh { shape, scale: self.scale, mask, sample, columns, weights });
                let weights = match masks {
                    Some(masks) => {
                        let after = after.unwrap_or(dropped);
                        masks.apply(index, weights, after);
                        after
                    }
                    None => weights,
                };
                simd::run(WeighValues { shape, sample, weights, ys });
            },
        );
        (ys, Weights { before_dropout, after_dropout: drops.then_some(after_dropout) })
    }
}

impl Form for SmallAttention {
    fn shape(&self) -> AttentionShape {
        self.shape
    }

    fn forward(&self, inputs: Inputs) -> Vec<f32> {
        let (ys, weights) = self.weigh(inputs);
        if self.tracked {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.weights.set(weights);
        }
        ys
    }

    fn backward(&self, inputs: Inputs, grad: &[f32]) -> Gradients {
        let AttentionShape { sample: shape, .. } = self.shape;
        let weights = self.weights.get().expect("the forward pass ran before the backward pass");
        let before = &weights.before_dropout;
        let after = weights.after_dropout.as_ref().unwrap_or(before);
        let mut all = Gradients::of(inputs);
        let weights = before.chunks_exact(shape.weights()).zip(after.chunks_exact(shape.weights()));
        let grads = grad.chunks_exact(shape.output()).zip(all.samples(shape));
        parallel::for_each_with(
            self.shape.multiply_adds(5),
            weights.zip(grads).enumerate(),
            || (Columns::new(shape), vec![0.0; shape.head_weights()]),
            |(columns, scores), (index, ((before_dropout, after_dropout), (grad, gradients)))| {
                simd::run(Backward {
                    shape,
                    scale: self.scale,
                    sample: inputs.sample(shape, index),
                    before_dropout,
                    after_dropout,
                    grad,
                    columns,
                    scores,
                    gradients,
                });
            },
        );
        all
    }
}

/// Draws the masks of weights, sample by sample.
struct DropWeights {
    shape: SampleShape,
    masks: Masks,
    /// (queries, heads, tokens)
    mask: Vec<f32>,
}

impl DropWeights {
    fn new(shape: SampleShape, dropout: AttentionDropout) -> Self {
        let AttentionDropout { rate, site, random } = dropout;
        let len = shape.queries * shape.heads * shape.tokens;
        Self { shape, masks: Masks::new(rate, site, random, len), mask: vec![0.0; len] }
    }

    /// `after = before ∘ mask`; the zeros at the ends of rows are not drawn for.
    fn apply(&mut self, sample: usize, before: &[f32], after: &mut [f32]) {
        let SampleShape { tokens, heads, .. } = self.shape;
        let row_len = self.shape.weights_row();
        self.masks.fill(sample, &mut self.mask);
        for (query, mask) in self.mask.chunks_exact(heads * tokens).enumerate() {
            for (head, mask) in mask.chunks_exact(tokens).enumerate() {
                let start = head * self.shape.head_weights() + query * row_len;
                let rows = after[start..][..tokens].iter_mut().zip(&before[start..][..tokens]);
                for ((after, before), m) in rows.zip(mask) {
                    *after = before * m;
                }
            }
        }
    }
}
