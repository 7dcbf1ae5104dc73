//! Half precision is for storage and products. Sums and exponentials go through `f32`, like PyTorch.

use candle_core::{DType, Result, Tensor};

/// Converts half precision to `f32`, because eight bits cannot hold a sum of 768 numbers.
pub(crate) fn widened(xs: &Tensor) -> Result<Tensor> {
    match xs.dtype() {
        DType::F16 | DType::BF16 => xs.to_dtype(DType::F32),
        _ => Ok(xs.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composed::{cross_entropy_sum, layer_norm, softmax};
    use crate::testing::tensors;
    use crate::{Attend, Queries, TokenMask, self_attention};

    /// The relative difference between an operation in half precision and in `f32` on half-precision inputs.
    fn difference(
        dtype: DType,
        inputs: &[Tensor],
        operation: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<f32> {
        let half = inputs.iter().map(|xs| xs.to_dtype(dtype)).collect::<Result<Vec<_>>>()?;
        let single = half.iter().map(|xs| xs.to_dtype(DType::F32)).collect::<Result<Vec<_>>>()?;
        let got = operation(&half)?;
        assert_eq!(got.dtype(), dtype);
        let (got, want) = (got.to_dtype(DType::F32)?, operation(&single)?);
        let largest = |xs: &Tensor| xs.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        Ok(largest(&(got - &want)?)? / largest(&want)?)
    }

    /// One rounding to eleven and to eight bits.
    const DTYPES: [(DType, f32); 2] = [(DType::F16, 5e-4), (DType::BF16, 4e-3)];

    #[test]
    fn wide_rows_and_large_numbers_are_rounded_once() -> Result<()> {
        for (dtype, tolerance) in DTYPES {
            let [xs, weight, bias] = tensors(&[&[5, 1024], &[1024], &[1024]])?;
            let xs = (xs * 300.0)?;
            let norm = |t: &[Tensor]| layer_norm(&t[0], &t[1], &t[2], 1e-5);
            assert!(difference(dtype, &[xs, weight, bias], norm)? < tolerance, "{dtype:?}");
            let [xs] = tensors(&[&[5, 2048]])?;
            assert!(difference(dtype, &[xs], |t| softmax(&t[0]))? < tolerance, "{dtype:?}");
            let [logits] = tensors(&[&[40, 300]])?;
            let labels = Tensor::zeros(40, DType::U32, logits.device())?;
            let loss = |t: &[Tensor]| cross_entropy_sum(&t[0], &labels);
            assert!(difference(dtype, &[logits], loss)? < tolerance, "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn attention_over_many_tokens_is_rounded_few_times() -> Result<()> {
        for (dtype, tolerance) in DTYPES {
            let [qkv] = tensors(&[&[2, 300, 3 * 64]])?;
            let mask = TokenMask::from_lengths(&[300, 200], 300)?;
            let attend = Attend { mask: Some(&mask), ..Attend::new(2, 32_f64.powf(-0.5)) };
            let attention = |t: &[Tensor]| self_attention(&t[0], Queries::All, &attend);
            assert!(difference(dtype, &[qkv], attention)? < 4.0 * tolerance, "{dtype:?}");
        }
        Ok(())
    }
}
