//! Multi-head self-attention on packed queries, keys and values (Vaswani et al., arXiv 1706.03762, eq. 1).

mod kernel;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use vit_random::{Random, Site};

use self::kernel::{SampleShape, Tiles};
use crate::dropout::{DropRate, fill_mask};
use crate::{simd, slices};

/// Dropout of attention weights: the mask of a sample is drawn in the order (heads, queries, keys).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDropout {
    /// The probability that a weight is dropped.
    pub rate: DropRate,
    /// Where the masks are drawn.
    pub site: Site,
    /// The source of the masks.
    pub random: Random,
}

/// `softmax(scale Q Kᵀ) V` for each head, the heads joined again; `dropout` acts on the weights.
///
/// PyTorch equivalent: `torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, scale=scale)`
/// on the three thirds of `qkv`, each split into heads.
///
/// # Shapes
/// `qkv` (batch, tokens, 3 * heads * head_dim): queries, then keys, then values, each head's part
/// contiguous -> (batch, tokens, heads * head_dim)
///
/// # Errors
/// If the last dimension is not three times a multiple of `heads`.
pub fn self_attention(
    qkv: &Tensor,
    heads: usize,
    scale: f64,
    dropout: Option<AttentionDropout>,
) -> Result<Tensor> {
    let dropout = dropout.filter(|dropout| !dropout.rate.is_zero());
    let shape = AttentionShape::of(qkv, heads)?;
    if qkv.elem_count() == 0 {
        // Without tokens there is nothing to attend to: the values, of which there are none.
        return qkv.narrow(2, 0, shape.sample.dim());
    }
    if !slices::fused(qkv) {
        return composed::self_attention(qkv, heads, scale, dropout);
    }
    let (qkv, scale) = (qkv.contiguous()?, scale as f32);
    // Tiles as wide as the heads, or the next whole number of registers.
    match shape.sample.head_dim {
        0..=8 => SelfAttention::<8>::apply(&qkv, shape, scale, dropout),
        9..=16 => SelfAttention::<16>::apply(&qkv, shape, scale, dropout),
        17..=32 => SelfAttention::<32>::apply(&qkv, shape, scale, dropout),
        33..=64 => SelfAttention::<64>::apply(&qkv, shape, scale, dropout),
        65..=128 => SelfAttention::<128>::apply(&qkv, shape, scale, dropout),
        _ => composed::self_attention(&qkv, heads, scale.into(), dropout),
    }
}

pub(crate) mod composed {
    use super::{AttentionDropout, AttentionShape, Result, SampleShape, Tensor};
    use crate::composed::{dropout as drop, softmax};

    /// [`self_attention`](crate::self_attention()) out of candle's tensor operations.
    ///
    /// # Errors
    /// If the last dimension is not three times a multiple of `heads`.
    pub fn self_attention(
        qkv: &Tensor,
        heads: usize,
        scale: f64,
        dropout: Option<AttentionDropout>,
    ) -> Result<Tensor> {
        let AttentionShape { batch, sample } = AttentionShape::of(qkv, heads)?;
        let SampleShape { tokens, head_dim, .. } = sample;
        let qkv = qkv.reshape((batch, tokens, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
        let part = |index: usize| qkv.get(index)?.contiguous(); // (batch, heads, tokens, head_dim)
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? * scale)?; // (batch, heads, tokens, tokens)
        let weights = softmax(&scores)?;
        let weights = match dropout {
            Some(dropout) => drop(&weights, dropout.rate, dropout.site, &dropout.random)?,
            None => weights,
        };
        let ys = weights.matmul(&v)?; // (batch, heads, tokens, head_dim)
        ys.transpose(1, 2)?.reshape((batch, tokens, heads * head_dim))
    }
}

#[derive(Clone, Copy, Debug)]
struct AttentionShape {
    batch: usize,
    sample: SampleShape,
}

impl AttentionShape {
    fn of(qkv: &Tensor, heads: usize) -> Result<Self> {
        let (batch, tokens, width) = qkv.dims3()?;
        if heads == 0 || !width.is_multiple_of(3 * heads) {
            bail!(
                "self-attention: expected qkv of shape (batch, tokens, 3 * heads * head_dim) with {heads} heads, got {:?}",
                qkv.dims()
            );
        }
        Ok(Self { batch, sample: SampleShape { tokens, heads, head_dim: width / (3 * heads) } })
    }
}

/// What the backward pass needs: the attention weights (batch, heads, tokens, `weights_row`), and what dropout
/// left of them.
struct Weights {
    before_dropout: Vec<f32>,
    after_dropout: Option<Vec<f32>>,
}

impl Weights {
    fn after(&self) -> &[f32] {
        self.after_dropout.as_ref().unwrap_or(&self.before_dropout)
    }
}

/// Attention whose heads fit into tiles of rows of `D` numbers.
struct SelfAttention<const D: usize> {
    shape: AttentionShape,
    scale: f32,
    dropout: Option<AttentionDropout>,
    weights: OnceLock<Weights>,
}

impl<const D: usize> SelfAttention<D> {
    fn apply(
        qkv: &Tensor,
        shape: AttentionShape,
        scale: f32,
        dropout: Option<AttentionDropout>,
    ) -> Result<Tensor> {
        qkv.apply_op1(Self { shape, scale, dropout, weights: OnceLock::new() })
    }

    fn weights(&self, qkv: &[f32]) -> Weights {
        let AttentionShape { batch, sample } = self.shape;
        let mut before_dropout = vec![0.0; batch * sample.weights()];
        let mut tiles = Tiles::<D>::new(sample);
        simd::dispatch(
            #[inline(always)]
            || {
                for (qkv, weights) in qkv
                    .chunks_exact(sample.tokens * 3 * sample.dim())
                    .zip(before_dropout.chunks_exact_mut(sample.weights()))
                {
                    kernel::weights(sample, self.scale, qkv, &mut tiles, weights);
                }
            },
        );
        let after_dropout =
            self.dropout.map(|dropout| drop_weights(sample, &before_dropout, dropout));
        Weights { before_dropout, after_dropout }
    }
}

/// The weights times their masks, which are drawn without the zeros at the ends of rows.
fn drop_weights(sample: SampleShape, weights: &[f32], dropout: AttentionDropout) -> Vec<f32> {
    let AttentionDropout { rate, site, random } = dropout;
    let drawn = sample.heads * sample.tokens * sample.tokens;
    let mut masks = vec![0.0; weights.len() / sample.weights_row() * sample.tokens];
    fill_mask(&mut masks, drawn, rate, site, &random);
    let mut dropped = weights.to_vec();
    let rows = dropped.chunks_exact_mut(sample.weights_row());
    for (row, mask) in rows.zip(masks.chunks_exact(sample.tokens)) {
        slices::multiply(row, mask);
    }
    dropped
}

impl<const D: usize> CustomOp1 for SelfAttention<D> {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = slices::of_storage(qkv, layout)?;
        let AttentionShape { batch, sample } = self.shape;
        let weights = self.weights(qkv);
        let mut ys = vec![0.0; batch * sample.tokens * sample.dim()];
        let mut tiles = Tiles::<D>::new(sample);
        simd::dispatch(
            #[inline(always)]
            || {
                for ((qkv, weights), ys) in qkv
                    .chunks_exact(sample.tokens * 3 * sample.dim())
                    .zip(weights.after().chunks_exact(sample.weights()))
                    .zip(ys.chunks_exact_mut(sample.tokens * sample.dim()))
                {
                    kernel::weigh_values(sample, qkv, weights, &mut tiles, ys);
                }
            },
        );
        // An operation runs forward once; its value lives in the graph until the backward pass.
        let _ = self.weights.set(weights);
        slices::output(ys, (batch, sample.tokens, sample.dim()))
    }

    fn bwd(&self, qkv: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let AttentionShape { sample, .. } = self.shape;
        let weights = self.weights.get().expect("the forward pass ran before the backward pass");
        let grad = grad.contiguous()?;
        let mut grad_qkv = vec![0.0; qkv.elem_count()];
        let mut tiles = Tiles::<D>::new(sample);
        slices::read2(&grad, qkv, |grad, qkv| {
            simd::dispatch(
                #[inline(always)]
                || {
                    for ((((qkv, before), after), grad), grad_qkv) in qkv
                        .chunks_exact(sample.tokens * 3 * sample.dim())
                        .zip(weights.before_dropout.chunks_exact(sample.weights()))
                        .zip(weights.after().chunks_exact(sample.weights()))
                        .zip(grad.chunks_exact(sample.tokens * sample.dim()))
                        .zip(grad_qkv.chunks_exact_mut(sample.tokens * 3 * sample.dim()))
                    {
                        let scale = self.scale;
                        kernel::backward(
                            sample, scale, qkv, before, after, grad, &mut tiles, grad_qkv,
                        );
                    }
                },
            );
            Ok(())
        })?;
        slices::gradient(grad_qkv, qkv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    fn dropout() -> AttentionDropout {
        AttentionDropout {
            rate: DropRate::new(0.3).expect("a rate in [0, 1)"),
            site: Site::named("test"),
            random: Random::new(4).at_step(1),
        }
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (batch, tokens, heads, head_dim) in [
            (1, 1, 1, 1),
            (2, 5, 3, 7),
            (3, 16, 4, 8),
            (1, 17, 2, 64),
            (2, 33, 1, 12),
            (1, 3, 2, 100),
        ] {
            let case = Case::new(&[&[batch, tokens, 3 * heads * head_dim]])?;
            for dropout in [None, Some(dropout())] {
                case.fused_equals_composed(
                    |t| self_attention(&t[0], heads, 0.35, dropout),
                    |t| composed::self_attention(&t[0], heads, 0.35, dropout),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_those_of_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3, 12]])?
            .gradients_match_differences(|t| composed::self_attention(&t[0], 2, 0.7, None))
    }

    #[test]
    fn nothing_gives_nothing() -> Result<()> {
        for shape in [[0, 4, 24], [2, 0, 24]] {
            let [qkv] = tensors(&[&shape])?;
            assert_eq!(self_attention(&qkv, 2, 0.5, None)?.dims(), [shape[0], shape[1], 8]);
        }
        Ok(())
    }

    #[test]
    fn permuting_tokens_permutes_outputs() -> Result<()> {
        let [qkv] = tensors(&[&[1, 4, 24]])?;
        let order = Tensor::new(&[2_u32, 0, 3, 1], qkv.device())?;
        let permuted = self_attention(&qkv.index_select(&order, 1)?, 2, 0.5, None)?;
        let want = self_attention(&qkv, 2, 0.5, None)?.index_select(&order, 1)?;
        let difference = (permuted - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(difference < 1e-6, "{difference}");
        Ok(())
    }

    #[test]
    fn a_width_that_is_no_multiple_is_named() -> Result<()> {
        let [qkv] = tensors(&[&[1, 4, 20]])?;
        let error = self_attention(&qkv, 2, 0.5, None).unwrap_err().to_string();
        assert!(error.contains("with 2 heads, got [1, 4, 20]"), "{error}");
        Ok(())
    }
}
