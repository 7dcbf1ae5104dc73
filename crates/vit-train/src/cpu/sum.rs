//! The gradient of a batch out of the gradients of its shards.

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::gradients::PARAMETERS_AT_ONCE;

/// The gradient of a parameter over a whole batch.
pub(crate) struct Summed {
    pub(crate) total: Tensor,
    /// An entry that is no finite number, if there is one; of another device or dtype, the sum of the squares then.
    pub(crate) not_finite: Option<f64>,
}

/// `scale * sum_s g_s` for each parameter, added in the order of the shards.
pub(crate) fn sum(shards: &[Vec<Tensor>], scale: f64) -> Result<Vec<Summed>> {
    let parameters = shards.first().map_or(0, Vec::len);
    let each = (0..parameters).into_par_iter().with_min_len(PARAMETERS_AT_ONCE).map(|index| {
        let pieces: Vec<&Tensor> = shards.iter().map(|shard| &shard[index]).collect();
        let total = sum_one(&pieces, scale)?;
        Ok(Summed { not_finite: not_finite(&total)?, total })
    });
    each.collect()
}

fn sum_one(pieces: &[&Tensor], scale: f64) -> Result<Tensor> {
    let first = pieces[0];
    if first.device().is_cpu() && first.dtype() == DType::F32 {
        return sum_on_cpu(pieces, scale as f32);
    }
    let mut total = first.clone();
    for piece in &pieces[1..] {
        total = (total + *piece)?;
    }
    total * scale
}

/// The same in one pass without a tensor for every addition.
fn sum_on_cpu(pieces: &[&Tensor], scale: f32) -> Result<Tensor> {
    let mut total = vec![0.0_f32; pieces[0].elem_count()];
    for piece in pieces {
        let piece = piece.contiguous()?;
        let (storage, layout) = piece.storage_and_layout();
        if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            for (total, value) in total.iter_mut().zip(&values[start..end]) {
                *total += value;
            }
        }
    }
    total.iter_mut().for_each(|value| *value *= scale);
    Tensor::from_vec(total, pieces[0].shape(), pieces[0].device())
}

/// See [`Summed`].
fn not_finite(gradient: &Tensor) -> Result<Option<f64>> {
    let (storage, layout) = gradient.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    {
        let values = &values[start..end];
        // Without leaving early, so that many are looked at at once.
        let all = values.iter().fold(true, |all, value| all & value.is_finite());
        let first = || values.iter().find(|value| !value.is_finite());
        return Ok(if all { None } else { first().map(|&value| f64::from(value)) });
    }
    let squares: f64 = gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?;
    Ok((!squares.is_finite()).then_some(squares))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn sums_are_scaled_and_the_same_in_both_forms() -> Result<()> {
        let shard = |values: [f64; 3], dtype| {
            Ok::<_, candle_core::Error>(vec![Tensor::new(&values, &Device::Cpu)?.to_dtype(dtype)?])
        };
        for dtype in [DType::F32, DType::F64] {
            let shards = [shard([1.0, 2.0, 3.0], dtype)?, shard([10.0, 20.0, 30.0], dtype)?];
            let sums = sum(&shards, 0.5)?;
            let total = sums[0].total.to_dtype(DType::F64)?;
            assert_eq!(sums[0].not_finite, None);
            assert_eq!(total.to_vec1::<f64>()?, [5.5, 11.0, 16.5]);
        }
        Ok(())
    }

    #[test]
    fn an_entry_that_is_not_finite_is_found() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let shard = Tensor::new(&[1.0, f64::INFINITY, 3.0], &Device::Cpu)?.to_dtype(dtype)?;
            assert_eq!(sum(&[vec![shard]], 0.5)?[0].not_finite, Some(f64::INFINITY));
        }
        Ok(())
    }
}
