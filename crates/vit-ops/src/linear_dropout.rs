//! A linear map followed by dropout, in one pass over the product on a GPU.

use candle_core::{Result, Tensor};
use vit_random::{Random, Site};

use crate::linear::check;
use crate::{DropRate, dropout, linear};

/// `y = dropout(x Wᵀ + b)` over the last dimension, bit-identical to [`dropout`] of [`linear`].
///
/// PyTorch equivalent: `torch.nn.functional.dropout(torch.nn.functional.linear(xs, weight, bias), rate)`, with other
/// masks.
///
/// # Shapes
/// `xs` (batch, ..., inputs), `weight` (outputs, inputs), `bias` (outputs) -> (batch, ..., outputs)
///
/// # Errors
/// If the shapes do not match, or the weight is empty.
pub fn linear_dropout(
    xs: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    (rate, site): (DropRate, Site),
    random: &Random,
) -> Result<Tensor> {
    check(xs, weight, Some(bias))?;
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) && xs.rank() > 1 && !rate.is_zero() {
        return crate::cuda::linear_dropout(xs, (weight, bias), (rate, site), random);
    }
    dropout(&linear(xs, weight, Some(bias))?, rate, site, random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensors;

    #[test]
    fn linear_dropout_equals_dropout_of_linear() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[2, 3, 4], &[5, 4], &[5]])?;
        let rate = DropRate::new(0.4).expect("a rate in [0, 1)");
        let (drop, random) = ((rate, Site::named("test")), Random::new(1).at_step(2));
        let got = linear_dropout(&xs, (&weight, &bias), drop, &random)?;
        let want = dropout(&linear(&xs, &weight, Some(&bias))?, drop.0, drop.1, &random)?;
        assert_eq!(got.to_vec3::<f32>()?, want.to_vec3::<f32>()?);
        Ok(())
    }
}
