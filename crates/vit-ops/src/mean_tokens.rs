//! The mean of each sample's tokens.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::{simd, slices};

/// `y_n = 1 / (tokens - first) sum_{t >= first} x_nt` for each sample `n`.
///
/// PyTorch equivalent: `xs[:, first:].mean(dim=1)`. candle's mean gives the same bits, but computes an index for each
/// number.
///
/// # Shapes
/// `xs` (batch, tokens, dim) -> (batch, dim)
///
/// # Errors
/// If no token is left.
pub fn mean_tokens(xs: &Tensor, first: usize) -> Result<Tensor> {
    check(xs, first)?;
    if slices::fused(xs) {
        xs.contiguous()?.apply_op1(MeanTokens { first })
    } else {
        composed::mean_tokens(xs, first)
    }
}

fn check(xs: &Tensor, first: usize) -> Result<()> {
    let (_batch, tokens, _dim) = xs.dims3()?;
    if first >= tokens {
        bail!("mean of tokens: expected more than {first} tokens, got {tokens}");
    }
    Ok(())
}

pub(crate) mod composed {
    use super::{Result, Tensor, check};

    /// [`mean_tokens`](crate::mean_tokens()) from candle's tensor operations.
    ///
    /// # Errors
    /// If no token is left.
    pub fn mean_tokens(xs: &Tensor, first: usize) -> Result<Tensor> {
        check(xs, first)?;
        xs.narrow(1, first, xs.dim(1)? - first)?.mean(1)
    }
}

struct MeanTokens {
    first: usize,
}

impl MeanTokens {
    /// The factor of each token.
    fn scale(&self, tokens: usize) -> f32 {
        (1.0 / (tokens - self.first) as f64) as f32
    }
}

impl CustomOp1 for MeanTokens {
    fn name(&self) -> &'static str {
        "mean-tokens"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, tokens, dim) = layout.shape().dims3()?;
        let xs = slices::of_storage(xs, layout)?;
        let scale = self.scale(tokens);
        let mut ys = vec![0.0; batch * dim];
        simd::dispatch(
            #[inline(always)]
            || {
                let samples = xs.chunks_exact(tokens * dim);
                for (mean, sample) in ys.chunks_exact_mut(dim).zip(samples) {
                    slices::add_rows(mean, &sample[self.first * dim..]);
                    mean.iter_mut().for_each(|sum| *sum *= scale);
                }
            },
        );
        slices::output(ys, (batch, dim))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_batch, tokens, dim) = xs.dims3()?;
        let grad = slices::upstream(grad)?;
        let scale = self.scale(tokens);
        let mut of_xs = vec![0.0; xs.elem_count()];
        slices::read(&grad, |grad| {
            let samples = of_xs.chunks_exact_mut(tokens * dim);
            for (sample, grad) in samples.zip(grad.chunks_exact(dim)) {
                for row in sample[self.first * dim..].chunks_exact_mut(dim) {
                    slices::add_scaled(row, scale, grad);
                }
            }
            Ok(())
        })?;
        slices::gradient(of_xs, xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    const CASES: [(&[usize], usize); 4] =
        [(&[1, 1, 1], 0), (&[3, 5, 7], 2), (&[2, 49, 64], 0), (&[2, 17, 33], 1)];

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (shape, first) in CASES {
            Case::new(&[shape])?.fused_equals_composed(
                |t| mean_tokens(&t[0], first),
                |t| composed::mean_tokens(&t[0], first),
            )?;
        }
        Ok(())
    }

    #[test]
    fn bits_equal_candles() -> Result<()> {
        for (shape, first) in CASES {
            let [xs] = tensors(&[shape])?;
            let [got, want] = [mean_tokens(&xs, first)?, composed::mean_tokens(&xs, first)?];
            assert!(got.to_vec2::<f32>()? == want.to_vec2::<f32>()?, "{shape:?}");
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[2, 4, 3]])?.gradients_match_differences(|t| composed::mean_tokens(&t[0], 1))
    }

    #[test]
    fn no_token_left_is_an_error() -> Result<()> {
        let [xs] = tensors(&[&[2, 4, 3]])?;
        for form in [mean_tokens, composed::mean_tokens] {
            let error = form(&xs, 4).unwrap_err().to_string();
            assert!(error.contains("expected more than 4 tokens, got 4"), "{error}");
        }
        Ok(())
    }
}
