//! The first tokens of each sample.

use candle_core::{Result, Tensor};

/// `y_n = x_n[..count]` for each sample `n`.
///
/// PyTorch equivalent: `xs[:, :count]`.
///
/// # Shapes
/// `xs` (batch, tokens, dim) -> (batch, count, dim)
///
/// # Errors
/// If there are fewer tokens.
pub fn first_tokens(xs: &Tensor, count: usize) -> Result<Tensor> {
    let ys = xs.narrow(1, 0, count)?;
    // candle's gradient pads with zeros, which on a GPU is many kernels.
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(&ys) && xs.rank() == 3 && count < xs.dim(1)? {
        return crate::cuda::first_tokens(xs, count);
    }
    Ok(ys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[2, 4, 3]])?.gradients_match_differences(|t| first_tokens(&t[0], 2))
    }

    #[test]
    fn count_beyond_the_tokens_is_an_error() -> Result<()> {
        let [xs] = tensors(&[&[2, 4, 3]])?;
        assert!(first_tokens(&xs, 5).is_err());
        Ok(())
    }
}
