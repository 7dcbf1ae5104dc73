//! The linear map `y = x Wᵀ + b`.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::matmul::{matmul, matmul_by, pieces_at_once};
use crate::matrix::Matrix;
use crate::{parallel, pieces, simd, slices};

/// `y = x Wᵀ + b` over the last dimension.
///
/// PyTorch equivalent: `torch.nn.functional.linear(xs, weight, bias)`.
///
/// # Shapes
/// `xs` (..., inputs), `weight` (outputs, inputs), `bias` (outputs) -> (..., outputs)
///
/// # Errors
/// If the shapes do not match, or the weight is empty.
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check(xs, weight, bias)?;
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) {
        return crate::cuda::linear(xs, weight, bias);
    }
    if !slices::fused(xs) {
        return composed::linear(xs, weight, bias);
    }
    let (xs, weight) = (xs.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => xs.apply_op3(&weight, &bias.contiguous()?, Linear),
        None => xs.apply_op2(&weight, Linear),
    }
}

/// # Errors
/// If the shapes do not match, or the weight is empty.
pub(crate) fn check(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let (outputs, inputs) = weight.dims2()?;
    if inputs == 0 || outputs == 0 {
        bail!("linear: expected a weight of at least 1x1, got {outputs}x{inputs}");
    }
    if xs.dims().last() != Some(&inputs) {
        bail!("linear: expected xs of shape (..., {inputs}), got {:?}", xs.dims());
    }
    if let Some(bias) = bias
        && bias.dims() != [outputs]
    {
        bail!("linear: expected a bias of shape ({outputs},), got {:?}", bias.dims());
    }
    Ok(())
}

pub(crate) mod composed {
    use super::{Result, Tensor};

    /// [`linear`](crate::linear()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (outputs, inputs) = weight.dims2()?;
        let rows = xs.elem_count() / inputs;
        // One product over all rows: a batched one would loop over the leading dimensions.
        let ys = xs.reshape((rows, inputs))?.matmul(&weight.t()?)?;
        let ys = match bias {
            Some(bias) => ys.broadcast_add(bias)?,
            None => ys,
        };
        let mut dims = xs.dims().to_vec();
        dims.pop();
        dims.push(outputs);
        ys.reshape(dims)
    }
}

pub(crate) struct Linear;

/// Columns per piece.
const STRIP: usize = 64;

/// Cost of a number in a column sum in multiply-adds, for [`parallel`]: it comes from memory.
const COST: usize = 4;

/// The gradient of a bias: the sum over the rows of `grad`.
pub(crate) fn add_columns(grad: &[f32], outputs: usize) -> Vec<f32> {
    pieces::sum((grad.len() / outputs, outputs), |Range { start, end }, total| {
        add_rows(&grad[start * outputs..end * outputs], total);
    })
}

/// The gradient of a weight: `dW = dyᵀ x`.
pub(crate) fn of_weight(
    (grad, outputs): (&[f32], usize),
    (xs, inputs): (&[f32], usize),
) -> Vec<f32> {
    let rows = xs.len() / inputs;
    let (grad, xs) = (Matrix::new(grad, rows, outputs), Matrix::new(xs, rows, inputs));
    let of_weight = (rows, outputs * inputs);
    pieces::sum_several(of_weight, pieces_at_once, |Range { start, end }, total, piece| {
        let [grad, xs] = [grad, xs].map(|of| of.rows(start, end - start));
        matmul_by((grad.transposed(), piece), xs, None, total);
    })
}

/// Sets `total` to the sum of the rows of `grad`, in order.
fn add_rows(grad: &[f32], total: &mut [f32]) {
    let outputs = total.len();
    total.fill(0.0);
    if !parallel::splits(COST * grad.len()) {
        return simd::dispatch(
            #[inline(always)]
            || slices::add_rows(total, grad),
        );
    }
    let strips = total.chunks_mut(STRIP).enumerate();
    parallel::for_each(COST * grad.len(), strips, |(strip, total)| {
        simd::dispatch(
            #[inline(always)]
            || {
                for row in grad.chunks_exact(outputs) {
                    slices::add_scaled(total, 1.0, &row[strip * STRIP..]);
                }
            },
        );
    });
}

impl Linear {
    /// The outputs and their shape.
    pub(crate) fn forward(
        xs: &[f32],
        xs_shape: &Shape,
        weight: &[f32],
        weight_shape: &Shape,
        bias: Option<&[f32]>,
    ) -> Result<(Vec<f32>, Vec<usize>)> {
        let (outputs, inputs) = weight_shape.dims2()?;
        let rows = xs.len() / inputs;
        let xs = Matrix::new(xs, rows, inputs);
        let weight = Matrix::new(weight, outputs, inputs).transposed();
        let ys = matmul(xs, weight, bias);
        let mut dims = xs_shape.dims().to_vec();
        dims.pop();
        dims.push(outputs);
        Ok((ys, dims))
    }

    /// `dx = dy W`, if xs is tracked, and `dW = dyᵀ x`, if the weight is.
    pub(crate) fn backward(
        xs: &Tensor,
        weight: &Tensor,
        grad: &[f32],
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let rows = xs.elem_count() / inputs;
        let grad_xs = if xs.track_op() {
            let values = slices::read(weight, |weight| {
                let grad = Matrix::new(grad, rows, outputs);
                Ok(matmul(grad, Matrix::new(weight, outputs, inputs), None))
            })?;
            slices::gradient(values, xs)?
        } else {
            None
        };
        if !weight.track_op() {
            return Ok((grad_xs, None));
        }
        let grad_weight = slices::read(xs, |xs| Ok(of_weight((grad, outputs), (xs, inputs))))?;
        Ok((grad_xs, slices::gradient(grad_weight, weight)?))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (ys, dims) = Self::forward(
            slices::of_storage(xs, xs_layout)?,
            xs_layout.shape(),
            slices::of_storage(weight, weight_layout)?,
            weight_layout.shape(),
            None,
        )?;
        slices::output(ys, dims)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = slices::upstream(grad)?;
        slices::read(&grad, |grad| Self::backward(xs, weight, grad))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (ys, dims) = Self::forward(
            slices::of_storage(xs, xs_layout)?,
            xs_layout.shape(),
            slices::of_storage(weight, weight_layout)?,
            weight_layout.shape(),
            Some(slices::of_storage(bias, bias_layout)?),
        )?;
        slices::output(ys, dims)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = slices::upstream(grad)?;
        slices::read(&grad, |grad| {
            let (grad_xs, grad_weight) = Self::backward(xs, weight, grad)?;
            Ok((
                grad_xs,
                grad_weight,
                slices::gradient(add_columns(grad, bias.elem_count()), bias)?,
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Case};

    const SHAPES: [(&[usize], usize, usize); 4] =
        [(&[1], 1, 1), (&[5], 7, 3), (&[2, 16], 32, 96), (&[2, 3, 4], 49, 10)];

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (leading, inputs, outputs) in SHAPES {
            let shape: Vec<usize> = leading.iter().copied().chain([inputs]).collect();
            let case = Case::new(&[&shape, &[outputs, inputs], &[outputs]])?;
            case.fused_equals_composed(
                |t| linear(&t[0], &t[1], Some(&t[2])),
                |t| composed::linear(&t[0], &t[1], Some(&t[2])),
            )?;
            let case = Case::new(&[&shape, &[outputs, inputs]])?;
            case.fused_equals_composed(
                |t| linear(&t[0], &t[1], None),
                |t| composed::linear(&t[0], &t[1], None),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3, 5], &[4, 5], &[4]])?
            .gradients_match_differences(|t| composed::linear(&t[0], &t[1], Some(&t[2])))
    }

    #[test]
    fn empty_weight_is_rejected() -> Result<()> {
        for shape in [[3, 0], [0, 4]] {
            let [xs, weight] = testing::tensors(&[&[2, shape[1]], &shape])?;
            let error = linear(&xs, &weight, None).unwrap_err().to_string();
            assert!(error.contains("expected a weight of at least 1x1"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn empty_input_gives_empty_output() -> Result<()> {
        let [xs, weight, bias] = testing::tensors(&[&[0, 4], &[3, 4], &[3]])?;
        assert_eq!(linear(&xs, &weight, Some(&bias))?.dims(), [0, 3]);
        Ok(())
    }

    #[test]
    fn transposed_input_gives_the_same_result() -> Result<()> {
        Case::new(&[&[5, 6], &[3, 5]])?.fused_equals_composed(
            |t| linear(&t[0].t()?, &t[1], None),
            |t| composed::linear(&t[0].t()?.contiguous()?, &t[1], None),
        )
    }

    #[test]
    fn wrong_shapes_are_named() -> Result<()> {
        let [xs, weight, bias] = testing::tensors(&[&[2, 4], &[3, 5], &[3]])?;
        let error = linear(&xs, &weight, Some(&bias)).unwrap_err().to_string();
        assert!(error.contains("expected xs of shape (..., 5), got [2, 4]"), "{error}");
        Ok(())
    }
}
