//! Multiplies each feature by its own factor, such as a layer scale.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::{pieces, simd, slices};

/// `y_i = x_i gamma_i` over the last dimension.
///
/// PyTorch equivalent: `xs * gamma`. candle's broadcast gives the same result, but its gradient for `gamma` costs a
/// division per element of `xs`.
///
/// # Shapes
/// `xs` (..., dim), `gamma` (dim) -> (..., dim)
///
/// # Errors
/// If the shapes do not match.
pub fn scale_features(xs: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    let dim = gamma.dims1()?;
    if xs.dims().last() != Some(&dim) {
        bail!("scale features: expected xs of shape (..., {dim}), got {:?}", xs.dims());
    }
    if slices::fused(xs) {
        xs.contiguous()?.apply_op2(&gamma.contiguous()?, ScaleFeatures)
    } else {
        composed::scale_features(xs, gamma)
    }
}

pub(crate) mod composed {
    use super::{Result, Tensor};

    /// [`scale_features`](crate::scale_features()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn scale_features(xs: &Tensor, gamma: &Tensor) -> Result<Tensor> {
        xs.broadcast_mul(gamma)
    }
}

struct ScaleFeatures;

impl CustomOp2 for ScaleFeatures {
    fn name(&self) -> &'static str {
        "scale-features"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gamma = slices::of_storage(gamma, gamma_layout)?;
        let ys = scaled(slices::of_storage(xs, xs_layout)?, gamma);
        slices::output(ys, xs_layout.shape().clone())
    }

    /// `dx = dy gamma`, `dgamma = sum over the rows of dy x`.
    fn bwd(
        &self,
        xs: &Tensor,
        gamma: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = slices::upstream(grad)?;
        let dim = gamma.elem_count();
        let total = slices::read2(xs, &grad, |xs, grad| Ok(of_gamma(xs, grad, dim)))?;
        let grad_xs = slices::read2(&grad, gamma, |grad, gamma| Ok(scaled(grad, gamma)))?;
        Ok((slices::gradient(grad_xs, xs)?, slices::gradient(total, gamma)?))
    }
}

/// The gradient of `gamma`: the sum over the rows of `dy x`.
pub(crate) fn of_gamma(xs: &[f32], grad: &[f32], dim: usize) -> Vec<f32> {
    pieces::sum((xs.len() / dim, dim), |Range { start, end }, total| {
        total.fill(0.0);
        let rows = start * dim..end * dim;
        let rows = xs[rows.clone()].chunks_exact(dim).zip(grad[rows].chunks_exact(dim));
        simd::dispatch(
            #[inline(always)]
            || {
                for (xs, grad) in rows {
                    for ((total, x), g) in total.iter_mut().zip(xs).zip(grad) {
                        *total += x * g;
                    }
                }
            },
        );
    })
}

/// Each row times `gamma`.
fn scaled(xs: &[f32], gamma: &[f32]) -> Vec<f32> {
    let mut ys = xs.to_vec();
    simd::dispatch(
        #[inline(always)]
        || ys.chunks_exact_mut(gamma.len()).for_each(|row| slices::multiply(row, gamma)),
    );
    ys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        let shapes: [[&[usize]; 2]; 4] =
            [[&[1], &[1]], [&[3, 5], &[5]], [&[4, 3, 7], &[7]], [&[2, 16, 32], &[32]]];
        for shapes in shapes {
            Case::new(&shapes)?.fused_equals_composed(
                |t| scale_features(&t[0], &t[1]),
                |t| composed::scale_features(&t[0], &t[1]),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[3, 2, 4], &[4]])?
            .gradients_match_differences(|t| composed::scale_features(&t[0], &t[1]))
    }

    #[test]
    fn transposed_input_gives_the_same_result() -> Result<()> {
        Case::new(&[&[5, 6], &[5]])?.fused_equals_composed(
            |t| scale_features(&t[0].t()?, &t[1]),
            |t| composed::scale_features(&t[0].t()?, &t[1]),
        )
    }

    #[test]
    fn empty_input_works_and_wrong_width_is_named() -> Result<()> {
        let [none, xs, gamma] = tensors(&[&[0, 3], &[2, 4], &[3]])?;
        assert_eq!(scale_features(&none, &gamma)?.dims(), [0, 3]);
        let error = scale_features(&xs, &gamma).unwrap_err().to_string();
        assert!(error.contains("expected xs of shape (..., 3), got [2, 4]"), "{error}");
        Ok(())
    }
}
