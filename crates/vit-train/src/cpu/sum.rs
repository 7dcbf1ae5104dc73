//! Summing the gradients of a batch's shards.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::gradients::PARAMETERS_AT_ONCE;

/// The gradient of a parameter over a whole batch.
pub(crate) struct Summed {
    pub(crate) total: Tensor,
    /// A non-finite entry, if any. On another device or dtype, the sum of squares instead.
    pub(crate) not_finite: Option<f64>,
}

/// `left + right` for each parameter.
pub(super) fn add(left: &[Tensor], right: &[Tensor]) -> Result<Vec<Tensor>> {
    left.iter().zip(right).map(|(left, right)| sum_one(&[left, right], 1.0)).collect()
}

/// `scale * (left + right)` for each parameter of a batch's two halves, or `scale * whole` for a single piece.
pub(super) fn scaled_sum(pieces: &[Vec<Tensor>], scale: f64) -> Result<Vec<Summed>> {
    let parameters = pieces.first().map_or(0, Vec::len);
    let each = (0..parameters).into_par_iter().with_min_len(PARAMETERS_AT_ONCE).map(|index| {
        let pieces: Vec<&Tensor> = pieces.iter().map(|piece| &piece[index]).collect();
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
    if scale == 1.0 { Ok(total) } else { total * scale }
}

/// The same in one pass, without a tensor for each operation.
fn sum_on_cpu(pieces: &[&Tensor], scale: f32) -> Result<Tensor> {
    let total = match pieces {
        [left, right] => {
            let (left, right) = (left.contiguous()?, right.contiguous()?);
            let ((left_storage, left_layout), (right_storage, right_layout)) =
                (left.storage_and_layout(), right.storage_and_layout());
            let values = values_of(&left_storage, left_layout)?.iter();
            let both = values.zip(values_of(&right_storage, right_layout)?);
            both.map(|(left, right)| (left + right) * scale).collect()
        }
        _ => {
            let whole = pieces[0].contiguous()?;
            let (storage, layout) = whole.storage_and_layout();
            values_of(&storage, layout)?.iter().map(|value| value * scale).collect()
        }
    };
    Tensor::from_vec::<_, f32>(total, pieces[0].shape(), pieces[0].device())
}

/// The values of a contiguous `f32` tensor on the CPU.
pub(super) fn values_of<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("sum of gradients: expected contiguous f32 on the CPU"),
    }
}

/// See [`Summed`].
fn not_finite(gradient: &Tensor) -> Result<Option<f64>> {
    let (storage, layout) = gradient.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    {
        let values = &values[start..end];
        // No early exit, so that the loop vectorises.
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
    fn fused_and_composed_sums_are_equal_and_scaled() -> Result<()> {
        let shard = |values: [f64; 3], dtype| {
            Ok::<_, candle_core::Error>(vec![Tensor::new(&values, &Device::Cpu)?.to_dtype(dtype)?])
        };
        for dtype in [DType::F32, DType::F64] {
            let shards = [shard([1.0, 2.0, 3.0], dtype)?, shard([10.0, 20.0, 30.0], dtype)?];
            let sums = scaled_sum(&shards, 0.5)?;
            let total = sums[0].total.to_dtype(DType::F64)?;
            assert_eq!(sums[0].not_finite, None);
            assert_eq!(total.to_vec1::<f64>()?, [5.5, 11.0, 16.5]);
        }
        Ok(())
    }

    #[test]
    fn non_finite_entries_are_found() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let shard = Tensor::new(&[1.0, f64::INFINITY, 3.0], &Device::Cpu)?.to_dtype(dtype)?;
            assert_eq!(scaled_sum(&[vec![shard]], 0.5)?[0].not_finite, Some(f64::INFINITY));
        }
        Ok(())
    }
}
