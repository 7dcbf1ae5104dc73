//! The sum of two tensors, such as a residual and its branch.

use candle_core::{Result, Tensor};

/// `z = x + y`.
///
/// PyTorch equivalent: `xs + ys`, of equal shapes.
///
/// # Shapes
/// `xs` (...), `ys` of the same shape -> (...)
///
/// # Errors
/// If the shapes differ.
pub fn add(xs: &Tensor, ys: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) && xs.shape() == ys.shape() && crate::cuda::fused(ys) {
        return crate::cuda::add(xs, ys);
    }
    xs + ys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3], &[2, 3]])?.gradients_match_differences(|t| add(&t[0], &t[1]))
    }

    #[test]
    fn different_shapes_are_an_error() -> Result<()> {
        let [xs, ys] = tensors(&[&[2, 3], &[2, 1]])?;
        assert!(add(&xs, &ys).is_err());
        Ok(())
    }
}
