//! Attention with few tokens or narrow heads: sample by sample within registers.

use super::DropoutSource;
use super::bias::Bias;
use super::inputs::{Gradients, Inputs};
use super::kernel::{Backward, Columns, Weigh, WeighValues};
use super::op::{Attending, Saved};
use super::sample::SampleShape;
use crate::buffer::Buffer;
use crate::lanes::Lanes;
use crate::parallel;
use crate::simd::{self, Kernel};
use crate::slices::LANES;

/// The form for heads of at most [`WIDEST_HEAD`](super::kernel::WIDEST_HEAD) numbers.
pub(crate) struct SmallAttention(pub(super) Attending);

impl SmallAttention {
    pub(super) fn forward(&self, inputs: Inputs, bias: Option<Bias>, ys: &mut [f32]) -> Saved {
        let Attending { samples, scale, dropout, tracked, .. } = &self.0;
        let (drops, largest) = (dropout.is_some(), samples.largest);
        let of_batch = |needed: bool| {
            Buffer::dirty(if needed { samples.total(SampleShape::weights) } else { 0 })
        };
        let of_sample = |needed: bool| Buffer::dirty(if needed { largest.weights() } else { 0 });
        let mut before_dropout = of_batch(*tracked);
        let mut after_dropout = of_batch(*tracked && drops);
        let parts = |needed: bool, all| match needed {
            true => samples.cut(all, SampleShape::weights),
            false => Vec::new(),
        };
        let mut before = parts(*tracked, &mut before_dropout).into_iter();
        let mut after = parts(*tracked && drops, &mut after_dropout).into_iter();
        let each = samples.cut(ys, SampleShape::output).into_iter().enumerate();
        let pieces = each.map(|(index, ys)| (index, ys, before.next(), after.next()));
        let scratch = || {
            let masks = dropout.map(|dropout| DropWeights::new(largest, samples.padded, dropout));
            (Columns::new(largest), masks, of_sample(!tracked), of_sample(!tracked && drops))
        };
        parallel::for_each_with(
            self.0.multiply_adds(2),
            pieces,
            scratch,
            |(columns, masks, weights, dropped), (index, ys, before, after)| {
                let layout = samples.layouts()[index];
                let (shape, sample) = (layout.shape, inputs.sample(layout));
                let weights = before.unwrap_or_else(|| &mut weights[..shape.weights()]);
                let added = self.0.added(index, bias);
                simd::run_fused(Weigh { shape, scale: *scale, added, sample, columns, weights });
                let weights = match masks {
                    Some(masks) => {
                        let after = after.unwrap_or_else(|| &mut dropped[..shape.weights()]);
                        masks.apply((index, shape), weights, after);
                        after
                    }
                    None => weights,
                };
                simd::run_fused(WeighValues { shape, sample, weights, ys });
            },
        );
        Saved { weights: before_dropout, dropped: drops.then_some(after_dropout) }
    }

    pub(super) fn backward(
        &self,
        saved: &Saved,
        inputs: Inputs,
        grad: &[f32],
        gradients: Gradients,
        of_added: Option<&mut [f32]>,
    ) {
        let Attending { samples, scale, .. } = &self.0;
        let parts = |all| samples.parts(all, SampleShape::weights);
        let before = parts(&saved.weights);
        let after = saved.dropped.as_deref().map_or_else(|| before.clone(), parts);
        let grads = samples.parts(grad, SampleShape::output);
        let of_added = of_added.map(|all| samples.cut(all, SampleShape::weights));
        let mut of_added = of_added.into_iter().flatten();
        let pieces = gradients.samples(samples).into_iter().enumerate();
        let pieces = pieces.map(|(index, gradients)| (index, gradients, of_added.next()));
        let largest = samples.largest;
        parallel::for_each_with(
            self.0.multiply_adds(5),
            pieces,
            || (Columns::new(largest), vec![0.0; 2 * largest.head_weights()]),
            |(columns, scores), (index, gradients, of_added)| {
                let layout = samples.layouts()[index];
                simd::run_fused(Backward {
                    shape: layout.shape,
                    scale: *scale,
                    sample: inputs.sample(layout),
                    before_dropout: before[index],
                    after_dropout: after[index],
                    grad: grads[index],
                    columns,
                    scores: &mut scores[..2 * layout.shape.head_weights()],
                    of_added,
                    gradients,
                });
            },
        );
    }
}

/// Draws the weights' masks, sample by sample.
struct DropWeights {
    /// Masked weights per row, padding included.
    padded: usize,
    source: DropoutSource,
    /// (queries, heads, padded), and zeros, so that each row can be read in whole registers.
    mask: Vec<f32>,
}

impl DropWeights {
    fn new(largest: SampleShape, padded: usize, source: DropoutSource) -> Self {
        Self { padded, source, mask: vec![0.0; largest.masks(padded) + LANES] }
    }

    /// Draws a sample's masks and applies them.
    fn apply(&mut self, (sample, shape): (usize, SampleShape), before: &[f32], after: &mut [f32]) {
        self.source.fill(sample, &mut self.mask[..shape.masks(self.padded)]);
        let (padded, mask) = (self.padded, &self.mask[..]);
        simd::run(ApplyMask { shape, padded, mask, before, after });
    }
}

/// `after = before ∘ mask`
struct ApplyMask<'a> {
    shape: SampleShape,
    padded: usize,
    mask: &'a [f32],
    before: &'a [f32],
    after: &'a mut [f32],
}

impl Kernel for ApplyMask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { shape, padded, mask, before, after } = self;
        let heads = before.chunks_exact(shape.head_weights());
        let heads = heads.zip(after.chunks_exact_mut(shape.head_weights()));
        for (head, (before, after)) in heads.enumerate() {
            let row_len = shape.weights_row();
            let rows = before.chunks_exact(row_len).zip(after.chunks_exact_mut(row_len));
            for (query, (before, after)) in rows.enumerate() {
                // Masks beyond the row's are finite, and the weights there are zero.
                let mask = &mask[(query * shape.heads + head) * padded..][..row_len];
                let blocks = before.as_chunks().0.iter().zip(after.as_chunks_mut().0);
                for ((before, after), mask) in blocks.zip(mask.as_chunks().0) {
                    lanes.store(lanes.mul(lanes.load(before), lanes.load(mask)), after);
                }
            }
        }
    }
}
