//! The fused forms of attention as operations of candle.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::AttentionShape;
use super::inputs::{Gradients, Inputs};
use crate::slices;

/// A fused form. It keeps what its backward pass needs.
pub(super) trait Form: Send + Sync + 'static {
    fn shape(&self) -> AttentionShape;

    /// The output (batch, queries, dim).
    fn forward(&self, inputs: Inputs) -> Vec<f32>;

    /// The gradients of the inputs that it ran forward on.
    fn backward(&self, inputs: Inputs, grad: &[f32]) -> Gradients;
}

/// A form on contiguous tensors: on one of packed queries, keys and values, or on one of queries and one of keys and
/// values.
pub(super) struct Attention<F>(pub(super) F);

impl<F: Form> Attention<F> {
    fn output(&self, inputs: Inputs) -> Result<(CpuStorage, Shape)> {
        let AttentionShape { batch, sample } = self.0.shape();
        slices::output(self.0.forward(inputs), (batch, sample.queries, sample.dim()))
    }
}

impl<F: Form> CustomOp1 for Attention<F> {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.output(Inputs::Packed(slices::of_storage(qkv, layout)?))
    }

    fn bwd(&self, qkv: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let gradients =
            slices::read2(qkv, &grad, |qkv, grad| Ok(self.0.backward(Inputs::Packed(qkv), grad)))?;
        match gradients {
            Gradients::Packed(of_qkv) => slices::gradient(of_qkv, qkv),
            Gradients::Apart { .. } => unreachable!("gradients lie as the inputs do"),
        }
    }
}

impl<F: Form> CustomOp2 for Attention<F> {
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
        self.output(Inputs::Apart { q, kv })
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let gradients = slices::read2(q, kv, |q, kv| {
            slices::read(&grad, |grad| Ok(self.0.backward(Inputs::Apart { q, kv }, grad)))
        })?;
        match gradients {
            Gradients::Apart { q: of_q, kv: of_kv } => {
                let tracked = |values, like: &Tensor| match like.track_op() {
                    true => slices::gradient(values, like),
                    false => Ok(None),
                };
                Ok((tracked(of_q, q)?, tracked(of_kv, kv)?))
            }
            Gradients::Packed(_) => unreachable!("gradients lie as the inputs do"),
        }
    }
}
