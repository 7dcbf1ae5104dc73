//! Multi-head self-attention on packed queries, keys and values (Vaswani et al., arXiv 1706.03762, eq. 1).

mod kernel;
mod large;
mod sample;
mod softmax;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use vit_random::{Random, Site};

use self::kernel::{Backward, Columns, Weigh, WeighValues};
use self::large::LargeAttention;
use self::sample::SampleShape;
use crate::dropout::{DropRate, Masks};
use crate::{simd, slices};

/// The tokens whose rows are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// All.
    All,
    /// The first, which is all that a classifier reads of a last block.
    First,
}

/// Dropout of attention weights: the mask of a sample is drawn in the order (queries, heads, keys), so that the
/// first token's is the same whichever [`Queries`] are asked for.
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
/// on the three thirds of `qkv`, each split into heads; of the first token, `q[..., :1, :]`.
///
/// # Shapes
/// `qkv` (batch, tokens, 3 * heads * head_dim): queries, then keys, then values, each head's part
/// contiguous -> (batch, tokens, heads * head_dim), or (batch, 1, heads * head_dim) for the first token
///
/// # Errors
/// If the last dimension is not three times a multiple of `heads`.
pub fn self_attention(
    qkv: &Tensor,
    heads: usize,
    scale: f64,
    queries: Queries,
    dropout: Option<AttentionDropout>,
) -> Result<Tensor> {
    let dropout = dropout.filter(|dropout| !dropout.rate.is_zero());
    let shape = AttentionShape::of(qkv, heads, queries)?;
    if qkv.elem_count() == 0 {
        // Without tokens there is nothing to attend to: the values, of which there are none.
        return qkv.narrow(1, 0, shape.sample.queries)?.narrow(2, 0, shape.sample.dim());
    }
    if !slices::fused(qkv) {
        return composed::self_attention(qkv, heads, scale, queries, dropout);
    }
    let scale = scale as f32;
    if large::suits(shape.sample) {
        return LargeAttention::apply(&qkv.contiguous()?, shape.sample, scale, dropout);
    }
    let op =
        SelfAttention { shape, scale, dropout, tracked: qkv.track_op(), weights: OnceLock::new() };
    qkv.contiguous()?.apply_op1(op)
}

pub(crate) mod composed {
    use super::{AttentionDropout, AttentionShape, Queries, Result, SampleShape, Tensor};
    use crate::composed::softmax;
    use crate::dropout::dropout_mask;

    /// [`self_attention`](crate::self_attention()) out of candle's tensor operations.
    ///
    /// # Errors
    /// If the last dimension is not three times a multiple of `heads`.
    pub fn self_attention(
        qkv: &Tensor,
        heads: usize,
        scale: f64,
        queries: Queries,
        dropout: Option<AttentionDropout>,
    ) -> Result<Tensor> {
        let AttentionShape { batch, sample } = AttentionShape::of(qkv, heads, queries)?;
        let SampleShape { tokens, queries, head_dim, .. } = sample;
        let qkv = qkv.reshape((batch, tokens, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
        let part = |index: usize| qkv.get(index)?.contiguous(); // (batch, heads, tokens, head_dim)
        let (q, k, v) = (part(0)?.narrow(2, 0, queries)?.contiguous()?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? * scale)?; // (batch, heads, queries, tokens)
        let weights = softmax(&scores)?;
        let weights = match dropout {
            Some(AttentionDropout { rate, site, random }) => {
                let shape = [batch, queries, heads, tokens];
                let mask =
                    dropout_mask(&shape, rate, site, &random, weights.dtype(), weights.device())?;
                (weights * mask.transpose(1, 2)?)?
            }
            None => weights,
        };
        let ys = weights.matmul(&v)?; // (batch, heads, queries, head_dim)
        ys.transpose(1, 2)?.reshape((batch, queries, heads * head_dim))
    }
}

#[derive(Clone, Copy, Debug)]
struct AttentionShape {
    batch: usize,
    sample: SampleShape,
}

impl AttentionShape {
    fn of(qkv: &Tensor, heads: usize, queries: Queries) -> Result<Self> {
        let (batch, tokens, width) = qkv.dims3()?;
        if heads == 0 || !width.is_multiple_of(3 * heads) {
            bail!(
                "self-attention: expected qkv of shape (batch, tokens, 3 * heads * head_dim) with {heads} heads, got {:?}",
                qkv.dims()
            );
        }
        let queries = match queries {
            Queries::All => tokens,
            Queries::First => tokens.min(1),
        };
        let sample = SampleShape { tokens, queries, heads, head_dim: width / (3 * heads) };
        Ok(Self { batch, sample })
    }
}

/// What the backward pass needs: the attention weights (batch, heads, queries, `weights_row`), and what dropout
/// left of them.
struct Weights {
    before_dropout: Vec<f32>,
    after_dropout: Option<Vec<f32>>,
}

struct SelfAttention {
    shape: AttentionShape,
    scale: f32,
    dropout: Option<AttentionDropout>,
    /// Whether there will be a backward pass.
    tracked: bool,
    weights: OnceLock<Weights>,
}

impl SelfAttention {
    /// The outputs of all samples, and the weights of all, or of the last alone where nobody will ask for them.
    fn forward(&self, qkv: &[f32]) -> (Vec<f32>, Weights) {
        let AttentionShape { batch, sample: shape } = self.shape;
        let kept = if self.tracked { batch } else { 1 };
        let mut before = vec![0.0; kept * shape.weights()];
        let mut after = self.dropout.map(|_| before.clone());
        let mut masks = self.dropout.map(|dropout| DropWeights::new(shape, dropout));
        let mut ys = vec![0.0; batch * shape.output()];
        let mut columns = Columns::new(shape);
        let each = qkv.chunks_exact(shape.packed()).zip(ys.chunks_exact_mut(shape.output()));
        for (sample, (qkv, ys)) in each.enumerate() {
            let slot = if self.tracked { sample } else { 0 };
            let here = slot * shape.weights()..(slot + 1) * shape.weights();
            let weights = &mut before[here.clone()];
            let columns = &mut columns;
            simd::run(Weigh { shape, scale: self.scale, qkv, columns, weights });
            let weights = match (&mut masks, &mut after) {
                (Some(masks), Some(after)) => {
                    let after = &mut after[here];
                    masks.apply(sample, weights, after);
                    after
                }
                _ => weights,
            };
            simd::run(WeighValues { shape, qkv, weights, ys });
        }
        (ys, Weights { before_dropout: before, after_dropout: after })
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

impl CustomOp1 for SelfAttention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let AttentionShape { batch, sample } = self.shape;
        let (ys, weights) = self.forward(slices::of_storage(qkv, layout)?);
        if self.tracked {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.weights.set(weights);
        }
        slices::output(ys, (batch, sample.queries, sample.dim()))
    }

    fn bwd(&self, qkv: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let AttentionShape { sample: shape, .. } = self.shape;
        let weights = self.weights.get().expect("the forward pass ran before the backward pass");
        let before = &weights.before_dropout;
        let after = weights.after_dropout.as_ref().unwrap_or(before);
        let grad = grad.contiguous()?;
        let mut grad_qkv = vec![0.0; qkv.elem_count()];
        let mut columns = Columns::new(shape);
        let mut scores = vec![0.0; shape.head_weights()];
        slices::read2(&grad, qkv, |grad, qkv| {
            let weights =
                before.chunks_exact(shape.weights()).zip(after.chunks_exact(shape.weights()));
            let each = qkv
                .chunks_exact(shape.packed())
                .zip(grad.chunks_exact(shape.output()))
                .zip(grad_qkv.chunks_exact_mut(shape.packed()));
            for (((qkv, grad), grad_qkv), (before_dropout, after_dropout)) in each.zip(weights) {
                let (columns, scores) = (&mut columns, &mut scores[..]);
                simd::run(Backward {
                    shape,
                    scale: self.scale,
                    qkv,
                    before_dropout,
                    after_dropout,
                    grad,
                    columns,
                    scores,
                    grad_qkv,
                });
            }
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
            (2, 9, 2, 20),
            (2, 20, 1, 40),
            (1, 130, 2, 8),
            (1, 40, 2, 40),
            (1, 3, 1, 130),
        ] {
            let case = Case::new(&[&[batch, tokens, 3 * heads * head_dim]])?;
            for dropout in [None, Some(dropout())] {
                for queries in [Queries::All, Queries::First] {
                    case.fused_equals_composed(
                        |t| self_attention(&t[0], heads, 0.35, queries, dropout),
                        |t| composed::self_attention(&t[0], heads, 0.35, queries, dropout),
                    )?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_those_of_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3, 12]])?.gradients_match_differences(|t| {
            composed::self_attention(&t[0], 2, 0.7, Queries::All, None)
        })
    }

    #[test]
    fn nothing_gives_nothing() -> Result<()> {
        for (shape, first) in [([0, 4, 24], 1), ([2, 0, 24], 0)] {
            let [qkv] = tensors(&[&shape])?;
            let all = self_attention(&qkv, 2, 0.5, Queries::All, None)?;
            assert_eq!(all.dims(), [shape[0], shape[1], 8]);
            let of_first = self_attention(&qkv, 2, 0.5, Queries::First, None)?;
            assert_eq!(of_first.dims(), [shape[0], first, 8]);
        }
        Ok(())
    }

    #[test]
    fn the_first_token_alone_is_the_first_of_all() -> Result<()> {
        // Few tokens, and so many that products are taken, whose last bits depend on their shape.
        for (tokens, tolerance) in [(5, 0.0), (130, 1e-6)] {
            let [qkv] = tensors(&[&[3, tokens, 24]])?;
            for dropout in [None, Some(dropout())] {
                let all = self_attention(&qkv, 2, 0.5, Queries::All, dropout)?.narrow(1, 0, 1)?;
                let first = self_attention(&qkv, 2, 0.5, Queries::First, dropout)?;
                let difference = (first - all)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(difference <= tolerance, "{tokens} tokens: {difference}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_transposed_input_is_read_right() -> Result<()> {
        Case::new(&[&[5, 2, 24]])?.fused_equals_composed(
            |t| self_attention(&t[0].transpose(0, 1)?, 2, 0.5, Queries::All, None),
            |t| {
                let qkv = t[0].transpose(0, 1)?.contiguous()?;
                composed::self_attention(&qkv, 2, 0.5, Queries::All, None)
            },
        )
    }

    #[test]
    fn nothing_changes_where_no_gradient_is_asked_for() -> Result<()> {
        let [qkv] = tensors(&[&[3, 5, 24]])?;
        let tracked = candle_core::Var::from_tensor(&qkv)?;
        let with = self_attention(&tracked, 2, 0.5, Queries::All, Some(dropout()))?;
        let without = self_attention(&qkv, 2, 0.5, Queries::All, Some(dropout()))?;
        assert_eq!(with.to_vec3::<f32>()?, without.to_vec3::<f32>()?);
        Ok(())
    }

    #[test]
    fn permuting_tokens_permutes_outputs() -> Result<()> {
        let [qkv] = tensors(&[&[1, 4, 24]])?;
        let order = Tensor::new(&[2_u32, 0, 3, 1], qkv.device())?;
        let permuted = self_attention(&qkv.index_select(&order, 1)?, 2, 0.5, Queries::All, None)?;
        let want = self_attention(&qkv, 2, 0.5, Queries::All, None)?.index_select(&order, 1)?;
        let difference = (permuted - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(difference < 1e-6, "{difference}");
        Ok(())
    }

    #[test]
    fn a_width_that_is_no_multiple_is_named() -> Result<()> {
        let [qkv] = tensors(&[&[1, 4, 20]])?;
        let error = self_attention(&qkv, 2, 0.5, Queries::All, None).unwrap_err().to_string();
        assert!(error.contains("with 2 heads, got [1, 4, 20]"), "{error}");
        Ok(())
    }
}
