//! The gradient of a batch out of the gradients of its shards.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::{Error, Parameters};

/// The gradients of one shard, in the order of the parameters.
///
/// # Errors
/// If a parameter has none: all such are named.
pub(crate) fn of_shard(
    mut store: GradStore,
    parameters: &Parameters,
) -> std::result::Result<Vec<Tensor>, Error> {
    let mut names = Vec::new();
    let mut gradients = Vec::with_capacity(parameters.len());
    for (name, var) in parameters {
        match store.remove(var) {
            Some(gradient) => gradients.push(gradient.detach()),
            None => names.push(name.clone()),
        }
    }
    if names.is_empty() {
        Ok(gradients)
    } else {
        Err(Error::NoGradient { names, total: parameters.len() })
    }
}

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

/// What one thread takes: a parameter alone is a few microseconds of work.
pub(crate) const PARAMETERS_AT_ONCE: usize = 8;

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

/// Cuts gradients down to a norm of at most `norm` over all of them together, and gives the norm that they had.
///
/// PyTorch equivalent: `torch.nn.utils.clip_grad_norm_`. Squares are added in `f64`, in the order given and within each
/// gradient in an order that its length alone decides.
///
/// # Errors
/// If a tensor operation fails.
pub fn clip_gradients(gradients: &mut [Tensor], norm: f64) -> Result<f64> {
    let each = gradients.par_iter().with_min_len(PARAMETERS_AT_ONCE).map(squares);
    let had = each.collect::<Result<Vec<f64>>>()?.iter().sum::<f64>().sqrt();
    // PyTorch's 1e-6, against a norm of zero.
    let scale = norm / (had + 1e-6);
    if scale < 1.0 {
        for gradient in gradients {
            *gradient = (&*gradient * scale)?;
        }
    }
    Ok(had)
}

/// `sum_i x_i^2`.
fn squares(gradient: &Tensor) -> Result<f64> {
    const LANES: usize = 16;
    let (storage, layout) = gradient.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    else {
        return gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar();
    };
    let (blocks, rest) = values[start..end].as_chunks::<LANES>();
    let square = |&x: &f32| f64::from(x) * f64::from(x);
    let mut lanes = [0.0_f64; LANES];
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, x)| *lane += square(x));
    }
    Ok(lanes.iter().sum::<f64>() + rest.iter().map(square).sum::<f64>())
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
    use candle_core::{Device, Var};

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
    fn clipping_keeps_the_direction_and_leaves_what_is_short_alone() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let gradients = || -> Result<Vec<Tensor>> {
                let long: Vec<f64> = (0..37).map(|i| f64::from(i) - 3.0).collect();
                let tensors = [Tensor::new(long, &Device::Cpu)?, Tensor::new(-4.0, &Device::Cpu)?];
                tensors.iter().map(|tensor| tensor.to_dtype(dtype)).collect()
            };
            let squares = (0..37).map(|i| (f64::from(i) - 3.0).powi(2)).sum::<f64>() + 16.0;
            let mut cut = gradients()?;
            assert!((clip_gradients(&mut cut, 2.0)? - squares.sqrt()).abs() < 1e-12);
            assert!((clip_gradients(&mut cut, 9.0)? - 2.0).abs() < 1e-6, "{dtype:?}");
            let last = cut[1].to_dtype(DType::F64)?.to_scalar::<f64>()?;
            assert!((last + 8.0 / squares.sqrt()).abs() < 1e-7, "{last}");
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

    #[test]
    fn parameters_without_gradient_are_named() -> Result<()> {
        let [used, unused] = [1.0_f32, 2.0].map(|value| Var::new(value, &Device::Cpu));
        let parameters = vec![("a.used".to_owned(), used?), ("b.unused".to_owned(), unused?)];
        let store = parameters[0].1.sqr()?.backward()?;
        let error = of_shard(store, &parameters).unwrap_err().to_string();
        assert_eq!(error, "no gradient reached 1 of 2 parameters: b.unused");
        Ok(())
    }
}
