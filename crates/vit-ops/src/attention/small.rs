//! Attention of few tokens, or of narrow heads: sample by sample within registers.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::inputs::{Gradients, Inputs};
use super::kernel::{Backward, Columns, Weigh, WeighValues};
use super::sample::SampleShape;
use super::{AttentionDropout, AttentionShape, TokenMask};
use crate::dropout::Masks;
use crate::{simd, slices};

/// What the backward pass needs: the attention weights (batch, heads, queries, `weights_row`), and what dropout
/// left of them.
struct Weights {
    before_dropout: Vec<f32>,
    after_dropout: Option<Vec<f32>>,
}

/// [`self_attention`](crate::self_attention()) and [`cross_attention`](crate::cross_attention()) on contiguous
/// tensors.
pub(super) struct SmallAttention {
    pub(super) shape: AttentionShape,
    pub(super) scale: f32,
    pub(super) mask: Option<TokenMask>,
    pub(super) dropout: Option<AttentionDropout>,
    /// Whether there will be a backward pass.
    pub(super) tracked: bool,
    weights: OnceLock<Weights>,
}

impl SmallAttention {
    pub(super) fn new(shape: AttentionShape, options: &super::Attend, tracked: bool) -> Self {
        let super::Attend { scale, mask, dropout, .. } = *options;
        let (scale, mask) = (scale as f32, mask.cloned());
        Self { shape, scale, mask, dropout, tracked, weights: OnceLock::new() }
    }

    /// The outputs of all samples, and the weights of all, or of the last alone where nobody will ask for them.
    fn weigh(&self, inputs: Inputs) -> (Vec<f32>, Weights) {
        let AttentionShape { batch, sample: shape } = self.shape;
        let kept = if self.tracked { batch } else { 1 };
        let mut before = vec![0.0; kept * shape.weights()];
        let mut after = self.dropout.map(|_| before.clone());
        let mut masks = self.dropout.map(|dropout| DropWeights::new(shape, dropout));
        let mut ys = vec![0.0; batch * shape.output()];
        let mut columns = Columns::new(shape);
        for (index, ys) in ys.chunks_exact_mut(shape.output()).enumerate() {
            let sample = inputs.sample(shape, index);
            let mask = self.mask.as_ref().map(|mask| mask.row(index));
            let slot = if self.tracked { index } else { 0 };
            let here = slot * shape.weights()..(slot + 1) * shape.weights();
            let weights = &mut before[here.clone()];
            let columns = &mut columns;
            simd::run(Weigh { shape, scale: self.scale, mask, sample, columns, weights });
            let weights = match (&mut masks, &mut after) {
                (Some(masks), Some(after)) => {
                    let after = &mut after[here];
                    masks.apply(index, weights, after);
                    after
                }
                _ => weights,
            };
            simd::run(WeighValues { shape, sample, weights, ys });
        }
        (ys, Weights { before_dropout: before, after_dropout: after })
    }

    fn forward(&self, inputs: Inputs) -> Result<(CpuStorage, Shape)> {
        let AttentionShape { batch, sample } = self.shape;
        let (ys, weights) = self.weigh(inputs);
        if self.tracked {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.weights.set(weights);
        }
        slices::output(ys, (batch, sample.queries, sample.dim()))
    }

    fn backward(&self, inputs: Inputs, grad: &[f32]) -> Gradients {
        let AttentionShape { sample: shape, .. } = self.shape;
        let weights = self.weights.get().expect("the forward pass ran before the backward pass");
        let before = &weights.before_dropout;
        let after = weights.after_dropout.as_ref().unwrap_or(before);
        let mut columns = Columns::new(shape);
        let mut scores = vec![0.0; shape.head_weights()];
        let mut all = Gradients::of(inputs);
        let weights = before.chunks_exact(shape.weights()).zip(after.chunks_exact(shape.weights()));
        let grads = grad.chunks_exact(shape.output()).zip(all.samples(shape));
        for (index, ((before_dropout, after_dropout), (grad, gradients))) in
            weights.zip(grads).enumerate()
        {
            simd::run(Backward {
                shape,
                scale: self.scale,
                sample: inputs.sample(shape, index),
                before_dropout,
                after_dropout,
                grad,
                columns: &mut columns,
                scores: &mut scores,
                gradients,
            });
        }
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

impl CustomOp1 for SmallAttention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(Inputs::Packed(slices::of_storage(qkv, layout)?))
    }

    fn bwd(&self, qkv: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        super::packed_gradient(qkv, grad, |inputs, grad| self.backward(inputs, grad))
    }
}

impl CustomOp2 for SmallAttention {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        kv: &CpuStorage,
        kv_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, kv) = (slices::of_storage(q, q_layout)?, slices::of_storage(kv, kv_layout)?);
        self.forward(Inputs::Apart { q, kv })
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        super::gradients_apart((q, kv), grad, |inputs, grad| self.backward(inputs, grad))
    }
}
