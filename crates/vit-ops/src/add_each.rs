//! Adds one tensor to every sample of a batch, such as a position table.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::{pieces, simd, slices};

/// `y_n = x_n + shared` for each sample `n`.
///
/// PyTorch equivalent: `xs + shared`. candle's broadcast gives the same result, but its gradient for `shared` costs a
/// division per element of `xs`.
///
/// # Shapes
/// `xs` (batch, ...), `shared` (...) or (1, ...) -> (batch, ...)
///
/// # Errors
/// If the shapes do not match.
pub fn add_each(xs: &Tensor, shared: &Tensor) -> Result<Tensor> {
    let sample = xs.dims().get(1..).unwrap_or_default();
    let fits = shared.dims() == sample
        || shared.dims().split_first().is_some_and(|(&one, rest)| one == 1 && rest == sample);
    if xs.rank() == 0 || !fits {
        bail!(
            "add each: expected xs of shape (batch, ...) and shared of shape (...), got {:?} and {:?}",
            xs.dims(),
            shared.dims()
        );
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) {
        return crate::cuda::add_each(xs, shared);
    }
    if slices::fused(xs) {
        xs.contiguous()?.apply_op2(&shared.contiguous()?, AddEach)
    } else {
        composed::add_each(xs, shared)
    }
}

pub(crate) mod composed {
    use super::{Result, Tensor};

    /// [`add_each`](crate::add_each()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn add_each(xs: &Tensor, shared: &Tensor) -> Result<Tensor> {
        xs.broadcast_add(shared)
    }
}

struct AddEach;

impl CustomOp2 for AddEach {
    fn name(&self) -> &'static str {
        "add-each"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        shared: &CpuStorage,
        shared_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shared = slices::of_storage(shared, shared_layout)?;
        let mut ys = slices::of_storage(xs, xs_layout)?.to_vec();
        for sample in ys.chunks_exact_mut(shared.len()) {
            slices::add_scaled(sample, 1.0, shared);
        }
        slices::output(ys, xs_layout.shape().clone())
    }

    fn bwd(
        &self,
        _xs: &Tensor,
        shared: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = slices::upstream(grad)?;
        let len = shared.elem_count();
        let total = slices::read(&grad, |grad| {
            Ok(pieces::sum((grad.len() / len, len), |Range { start, end }, total| {
                total.fill(0.0);
                simd::dispatch(
                    #[inline(always)]
                    || slices::add_rows(total, &grad[start * len..end * len]),
                );
            }))
        })?;
        let grad_shared = slices::gradient(total, shared)?;
        Ok((Some(grad), grad_shared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        let shapes: [[&[usize]; 2]; 4] = [
            [&[1, 1], &[1]],
            [&[3, 5], &[1, 5]],
            [&[4, 3, 7], &[3, 7]],
            [&[2, 16, 32], &[1, 16, 32]],
        ];
        for shapes in shapes {
            Case::new(&shapes)?.fused_equals_composed(
                |t| add_each(&t[0], &t[1]),
                |t| composed::add_each(&t[0], &t[1]),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[3, 2, 4], &[1, 2, 4]])?
            .gradients_match_differences(|t| composed::add_each(&t[0], &t[1]))
    }

    #[test]
    fn wrong_shapes_are_named() -> Result<()> {
        let [xs, shared] = tensors(&[&[2, 4, 3], &[5, 3]])?;
        let error = add_each(&xs, &shared).unwrap_err().to_string();
        assert!(error.contains("got [2, 4, 3] and [5, 3]"), "{error}");
        Ok(())
    }
}
