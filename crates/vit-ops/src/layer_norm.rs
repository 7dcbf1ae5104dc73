//! Layer normalisation (Ba, Kiros, Hinton, arXiv 1607.06450).

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::{simd, slices};

/// `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias` over the last dimension, with the biased variance
/// taken in two passes.
///
/// PyTorch equivalent: `torch.nn.functional.layer_norm(xs, [dim], weight, bias, eps)`.
///
/// # Shapes
/// `xs` (..., dim), `weight` (dim), `bias` (dim) -> (..., dim)
///
/// # Errors
/// If the shapes do not fit.
pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dim = weight.dims1()?;
    if xs.dims().last() != Some(&dim) || bias.dims() != [dim] {
        bail!(
            "layer norm: expected xs of shape (..., {dim}) and a bias of shape ({dim},), got {:?} and {:?}",
            xs.dims(),
            bias.dims()
        );
    }
    if !slices::fused(xs) {
        return composed::layer_norm(xs, weight, bias, eps);
    }
    let op = LayerNorm { eps: eps as f32, rows: OnceLock::new() };
    xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use candle_core::D;

    /// [`layer_norm`](crate::layer_norm()) out of candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let centered = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        let normalised = centered.broadcast_div(&(variance + eps)?.sqrt()?)?;
        normalised.broadcast_mul(weight)?.broadcast_add(bias)
    }
}

/// What the backward pass needs of a row.
struct Row {
    mean: f32,
    /// `1 / sqrt(Var[x] + eps)`
    scale: f32,
}

struct LayerNorm {
    eps: f32,
    rows: OnceLock<Vec<Row>>,
}

impl LayerNorm {
    #[inline(always)]
    fn row(&self, xs: &[f32]) -> Row {
        let count = xs.len() as f32;
        let mean = slices::sum(xs) / count;
        let variance = slices::sum_of_squares_about(mean, xs) / count;
        Row { mean, scale: 1.0 / (variance + self.eps).sqrt() }
    }
}

/// With `n = (x - mean) scale` and `g = dy w`: `dx = scale (g - E[g] - n E[g n])`, `dw = sum dy n`.
#[inline(always)]
fn backward(
    xs: &[f32],
    weight: &[f32],
    rows: &[Row],
    grad: &[f32],
    grad_xs: &mut [f32],
    grad_weight: &mut [f32],
) {
    let dim = weight.len();
    let (mut normalised, mut weighted) = (vec![0.0; dim], vec![0.0; dim]);
    let each = xs.chunks_exact(dim).zip(grad.chunks_exact(dim)).zip(grad_xs.chunks_exact_mut(dim));
    for (((xs, grad), grad_xs), row) in each.zip(rows) {
        let outputs = normalised.iter_mut().zip(&mut weighted).zip(grad_weight.iter_mut());
        let inputs = xs.iter().zip(grad).zip(weight);
        for (((n, g), dw), ((x, dy), w)) in outputs.zip(inputs) {
            *n = (x - row.mean) * row.scale;
            *g = dy * w;
            *dw += dy * *n;
        }
        let mean = slices::sum(&weighted) / dim as f32;
        let along = slices::dot(&weighted, &normalised) / dim as f32;
        for ((dx, g), n) in grad_xs.iter_mut().zip(&weighted).zip(&normalised) {
            *dx = row.scale * (g - mean - n * along);
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs = slices::of_storage(xs, xs_layout)?;
        let weight = slices::of_storage(weight, weight_layout)?;
        let bias = slices::of_storage(bias, bias_layout)?;
        let dim = weight.len();
        let mut ys = vec![0.0; xs.len()];
        let mut rows = Vec::with_capacity(xs.len() / dim);
        simd::dispatch(
            #[inline(always)]
            || {
                for (xs, ys) in xs.chunks_exact(dim).zip(ys.chunks_exact_mut(dim)) {
                    let row = self.row(xs);
                    for (((y, x), w), b) in ys.iter_mut().zip(xs).zip(weight).zip(bias) {
                        *y = (x - row.mean) * row.scale * w + b;
                    }
                    rows.push(row);
                }
            },
        );
        // An operation runs forward once; its value lives in the graph until the backward pass.
        let _ = self.rows.set(rows);
        slices::output(ys, xs_layout.shape().clone())
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dim = weight.dims1()?;
        let rows = self.rows.get().expect("the forward pass ran before the backward pass");
        let grad = grad.contiguous()?;
        let mut grad_xs = vec![0.0; xs.elem_count()];
        let mut grad_weight = vec![0.0; dim];
        let mut grad_bias = vec![0.0; dim];
        slices::read2(xs, weight, |xs, weight| {
            slices::read(&grad, |grad| {
                simd::dispatch(
                    #[inline(always)]
                    || {
                        slices::add_rows(&mut grad_bias, grad);
                        backward(xs, weight, rows, grad, &mut grad_xs, &mut grad_weight);
                    },
                );
                Ok(())
            })
        })?;
        Ok((
            slices::gradient(grad_xs, xs)?,
            slices::gradient(grad_weight, weight)?,
            slices::gradient(grad_bias, bias)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    const EPS: f64 = 1e-5;

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        // Not two wide: there the exact gradient is zero but for eps, and rounding is all that is left.
        let shapes: [&[usize]; 5] = [&[4, 1], &[3, 5], &[2, 16, 32], &[7, 33], &[2, 3, 4, 192]];
        for shape in shapes {
            let dim = *shape.last().expect("a shape has a last dimension");
            Case::new(&[shape, &[dim], &[dim]])?.fused_equals_composed(
                |t| layer_norm(&t[0], &t[1], &t[2], EPS),
                |t| composed::layer_norm(&t[0], &t[1], &t[2], EPS),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_are_those_of_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3, 6], &[6], &[6]])?
            .gradients_match_differences(|t| composed::layer_norm(&t[0], &t[1], &t[2], EPS))
    }

    #[test]
    fn a_large_mean_does_not_spoil_the_variance() -> Result<()> {
        // E[x²] - mean² would lose every digit here.
        let xs = Tensor::new(&[[1000.0_f32, 1000.1, 999.9, 1000.0]], &candle_core::Device::Cpu)?;
        let ones = xs.ones_like()?.squeeze(0)?;
        let ys = layer_norm(&xs, &ones, &ones.zeros_like()?, EPS)?.to_vec2::<f32>()?;
        assert!((ys[0][1] - 1.413_5).abs() < 5e-3, "{ys:?}");
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[2, 4], &[5], &[5]])?;
        let error = layer_norm(&xs, &weight, &bias, EPS).unwrap_err().to_string();
        assert!(error.contains("expected xs of shape (..., 5)"), "{error}");
        Ok(())
    }
}
