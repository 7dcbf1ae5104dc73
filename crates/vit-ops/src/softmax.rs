//! Softmax over the last dimension.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::exp::exp;
use crate::lanes::{Lanes, update};
use crate::simd::{self, Kernel};
use crate::slices;

/// `y_i = exp(x_i - max x) / sum_j exp(x_j - max x)` over the last dimension.
///
/// PyTorch equivalent: `torch.softmax(xs, dim=-1)`.
///
/// # Shapes
/// `xs` (..., n) -> (..., n)
///
/// # Errors
/// If `xs` has no dimension.
pub fn softmax(xs: &Tensor) -> Result<Tensor> {
    if xs.elem_count() == 0 {
        return Ok(xs.clone());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) && xs.rank() > 0 {
        return crate::cuda::softmax(xs);
    }
    if slices::fused(xs) && xs.rank() > 0 {
        xs.contiguous()?.apply_op1(Softmax)
    } else {
        composed::softmax(xs)
    }
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use crate::precision::widened;
    use candle_core::D;

    /// [`softmax`](crate::softmax()) from candle's tensor operations.
    ///
    /// # Errors
    /// If `xs` has no dimension.
    pub fn softmax(xs: &Tensor) -> Result<Tensor> {
        let (dtype, xs) = (xs.dtype(), widened(xs)?);
        // Subtracting the maximum changes neither the result nor the gradient.
        let max = xs.detach().max_keepdim(D::Minus1)?;
        let weights = xs.broadcast_sub(&max)?.exp()?;
        weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(dtype)
    }
}

/// Replaces each row with its softmax.
pub(crate) fn softmax_rows(rows: &mut [f32], width: usize) {
    simd::run_fused(Rows { rows, width });
}

struct Rows<'a> {
    rows: &'a mut [f32],
    width: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for row in self.rows.chunks_exact_mut(self.width) {
            let max = lanes.splat(slices::max(row));
            update(
                lanes,
                [],
                [row],
                #[inline(always)]
                |[], [x]| [exp(lanes, lanes.sub(x, max))],
            );
            let scale = 1.0 / slices::sum(row);
            for x in row {
                *x *= scale;
            }
        }
    }
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut ys = slices::of_storage(xs, layout)?.to_vec();
        softmax_rows(&mut ys, last_dimension(layout.dims()));
        slices::output(ys, layout.shape().clone())
    }

    /// `dx_i = y_i (dy_i - sum_j dy_j y_j)`.
    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = last_dimension(xs.dims());
        let grad = slices::upstream(grad)?;
        let mut grad_xs = vec![0.0; xs.elem_count()];
        slices::read(&grad, |grad| {
            slices::read(ys, |ys| {
                let each = grad_xs
                    .chunks_exact_mut(width)
                    .zip(grad.chunks_exact(width))
                    .zip(ys.chunks_exact(width));
                for ((grad_xs, grad), ys) in each {
                    let along = slices::dot(grad, ys);
                    for ((grad_x, g), y) in grad_xs.iter_mut().zip(grad).zip(ys) {
                        *grad_x = y * (g - along);
                    }
                }
                Ok(())
            })
        })?;
        slices::gradient(grad_xs, xs)
    }
}

fn last_dimension(dims: &[usize]) -> usize {
    *dims.last().expect("softmax checked that there is a dimension")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for width in 1..20 {
            Case::new(&[&[3, width]])?
                .fused_equals_composed(|t| softmax(&t[0]), |t| composed::softmax(&t[0]))?;
        }
        Case::new(&[&[2, 4, 16, 16]])?
            .fused_equals_composed(|t| softmax(&t[0]), |t| composed::softmax(&t[0]))
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[3, 5]])?.gradients_match_differences(|t| composed::softmax(&t[0]))
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for len in 1..40 {
            let row: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            simd::assert_paths_agree(len, |arch| {
                let mut row = row.clone();
                simd::run_on(arch, Rows { rows: &mut row, width: len });
                row
            });
        }
    }

    #[test]
    fn empty_input_gives_empty_output() -> Result<()> {
        let [xs] = crate::testing::tensors(&[&[0, 5]])?;
        assert_eq!(softmax(&xs)?.dims(), [0, 5]);
        Ok(())
    }

    #[test]
    fn rows_sum_to_one_even_if_exp_would_overflow() -> Result<()> {
        let xs = Tensor::new(&[[1e4_f32, 9e3, -1e4], [0.0, 0.0, 0.0]], &candle_core::Device::Cpu)?;
        for ys in [softmax(&xs)?, composed::softmax(&xs)?] {
            for row in ys.to_vec2::<f32>()? {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
            }
        }
        Ok(())
    }
}
