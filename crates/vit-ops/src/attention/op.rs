//! The fused forms of attention as candle operations.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::bias::Bias;
use super::inputs::{Gradients, Inputs};
use super::large::{self, LargeAttention};
use super::sample::{SampleShape, Samples};
use super::small::SmallAttention;
use super::{Attend, DropoutSource};
use crate::buffer::Buffer;
use crate::many::{Many, OpParameters};
use crate::{TokenMask, pieces, slices};

/// A batch's attention without its inputs.
pub(crate) struct Attending {
    pub(super) samples: Samples,
    pub(super) scale: f32,
    pub(super) mask: Option<TokenMask>,
    pub(super) causal: bool,
    pub(super) dropout: Option<DropoutSource>,
    /// Whether there will be a backward pass.
    pub(super) tracked: bool,
}

/// Data for the backward pass.
pub(crate) struct Saved {
    /// The weights before dropout, (heads, queries, `weights_row`) per sample.
    pub(super) weights: Buffer,
    /// Small attention: the weights after dropout. Large attention: the masks.
    pub(super) dropped: Option<Buffer>,
}

/// A fused form.
pub(crate) enum Form {
    Small(SmallAttention),
    Large(LargeAttention),
}

impl Form {
    /// Selects the form.
    pub(crate) fn of(samples: Samples, attend: &Attend, tracked: bool) -> Self {
        if large::suits(samples.largest) {
            Self::large(samples, attend, tracked)
        } else {
            Self::Small(SmallAttention(Attending::new(samples, attend, tracked)))
        }
    }

    pub(super) fn large(samples: Samples, attend: &Attend, tracked: bool) -> Self {
        Self::Large(LargeAttention(Attending::new(samples, attend, tracked)))
    }

    fn attending(&self) -> &Attending {
        let (Self::Small(SmallAttention(attending)) | Self::Large(LargeAttention(attending))) =
            self;
        attending
    }

    pub(crate) fn heads(&self) -> usize {
        self.attending().samples.largest.heads
    }

    /// Computes the output, (queries, dim) per sample.
    pub(crate) fn forward(&self, inputs: Inputs, bias: Option<Bias>, ys: &mut [f32]) -> Saved {
        match self {
            Self::Small(small) => small.forward(inputs, bias, ys),
            Self::Large(large) => large.forward(inputs, bias, ys),
        }
    }

    /// The gradients of the forward pass's inputs, and of the bias if its shape is given.
    pub(crate) fn backward(
        &self,
        saved: &Saved,
        inputs: Inputs,
        grad: &[f32],
        gradients: Gradients,
        bias: Option<Bias>,
    ) -> Option<Vec<f32>> {
        let samples = &self.attending().samples;
        let mut of_scores = bias.map(|_| Buffer::dirty(samples.total(SampleShape::weights)));
        let each = of_scores.as_deref_mut();
        match self {
            Self::Small(small) => small.backward(saved, inputs, grad, gradients, each),
            Self::Large(large) => large.backward(saved, inputs, grad, gradients, each),
        }
        let bias = bias?;
        pieces::refuse("a learned score bias");
        Some(bias.gradient(samples, &of_scores?))
    }
}

impl Attending {
    fn new(samples: Samples, attend: &Attend, tracked: bool) -> Self {
        let Attend { scale, mask, causal, dropout, .. } = *attend;
        Self { samples, scale: scale as f32, mask: mask.cloned(), causal, dropout, tracked }
    }

    /// Multiply-adds of `products` products of the scores' size, for [`parallel`](crate::parallel).
    pub(super) fn multiply_adds(&self, products: usize) -> usize {
        self.samples.total(|shape| shape.multiply_adds(products))
    }
}

/// A form on contiguous tensors: packed queries, keys and values, or queries with keys and values.
pub(super) struct Attention {
    form: Form,
    /// The shape of the output.
    shape: Shape,
    bias: Option<BiasShape>,
    saved: OnceLock<Saved>,
}

/// The dimensions of a bias (batch or 1, heads or 1, queries, tokens).
pub(crate) type BiasShape = [usize; 4];

impl Attention {
    pub(super) fn new(form: Form, shape: impl Into<Shape>, bias: Option<BiasShape>) -> Self {
        Self { form, shape: shape.into(), bias, saved: OnceLock::new() }
    }

    fn output(&self, inputs: Inputs, bias: Option<&[f32]>) -> Vec<f32> {
        let mut ys = vec![0.0; self.shape.elem_count()];
        let saved = self.form.forward(inputs, self.bias_of(bias), &mut ys);
        if self.form.attending().tracked {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.saved.set(saved);
        }
        ys
    }

    fn saved(&self) -> &Saved {
        self.saved.get().expect("the forward pass ran before the backward pass")
    }

    fn bias_of<'a>(&self, values: Option<&'a [f32]>) -> Option<Bias<'a>> {
        Some(Bias::new(values?, self.bias?))
    }

    fn gradient_of_packed(
        &self,
        qkv: &[f32],
        grad: &[f32],
        bias: Option<&[f32]>,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let mut of_qkv = vec![0.0; qkv.len()];
        let gradients = Gradients::Packed(&mut of_qkv);
        let inputs = Inputs::Packed(qkv);
        let of_bias = self.form.backward(self.saved(), inputs, grad, gradients, self.bias_of(bias));
        (of_qkv, of_bias)
    }

    fn gradients_apart(
        &self,
        (q, kv): (&[f32], &[f32]),
        grad: &[f32],
        bias: Option<&[f32]>,
    ) -> ([Vec<f32>; 2], Option<Vec<f32>>) {
        let (mut of_q, mut of_kv) = (vec![0.0; q.len()], vec![0.0; kv.len()]);
        let gradients = Gradients::Apart { q: &mut of_q, kv: &mut of_kv };
        let inputs = Inputs::Apart { q, kv };
        let of_bias = self.form.backward(self.saved(), inputs, grad, gradients, self.bias_of(bias));
        ([of_q, of_kv], of_bias)
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = slices::of_storage(qkv, layout)?;
        slices::output(self.output(Inputs::Packed(qkv), None), self.shape.clone())
    }

    fn bwd(&self, qkv: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = slices::upstream(grad)?;
        let (of_qkv, _) =
            slices::read2(qkv, &grad, |qkv, grad| Ok(self.gradient_of_packed(qkv, grad, None)))?;
        slices::gradient(of_qkv, qkv)
    }
}

impl CustomOp2 for Attention {
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
        slices::output(self.output(Inputs::Apart { q, kv }, None), self.shape.clone())
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = slices::upstream(grad)?;
        let ([of_q, of_kv], _) = slices::read2(q, kv, |q, kv| {
            slices::read(&grad, |grad| Ok(self.gradients_apart((q, kv), grad, None)))
        })?;
        let tracked = |values, like: &Tensor| match like.track_op() {
            true => slices::gradient(values, like),
            false => Ok(None),
        };
        Ok((tracked(of_q, q)?, tracked(of_kv, kv)?))
    }
}

/// The form with a bias, which is the last parameter: on packed queries, keys and values, or on queries with keys and
/// values as the first parameter.
impl Many for Attention {
    fn name(&self) -> &'static str {
        "biased-attention"
    }

    fn forward(&self, xs: &[f32], parameters: &OpParameters) -> Result<(Vec<f32>, Shape)> {
        let ys = match parameters.all() {
            [bias] => self.output(Inputs::Packed(xs), Some(bias)),
            [kv, bias] => self.output(Inputs::Apart { q: xs, kv }, Some(bias)),
            _ => bail!("attention: expected one or two parameters"),
        };
        Ok((ys, self.shape.clone()))
    }

    fn backward(
        &self,
        xs: &[f32],
        parameters: &OpParameters,
        grad: &[f32],
    ) -> Result<(Option<Vec<f32>>, Vec<Option<Vec<f32>>>)> {
        // The bias' gradient costs as much memory as the weights.
        match parameters.all() {
            [bias] => {
                let bias = parameters.tracked(0).then_some(*bias);
                let (of_qkv, of_bias) = self.gradient_of_packed(xs, grad, bias);
                Ok((Some(of_qkv), vec![of_bias]))
            }
            [kv, bias] => {
                let bias = parameters.tracked(1).then_some(*bias);
                let ([of_q, of_kv], of_bias) = self.gradients_apart((xs, kv), grad, bias);
                Ok((Some(of_q), vec![Some(of_kv), of_bias]))
            }
            _ => bail!("attention: expected one or two parameters"),
        }
    }
}
