//! Gradients by parameter, and their norm.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::{Error, NamedVars};

/// The gradients of these parameters, in order, from a backward pass.
///
/// # Errors
/// If parameters have no gradient; the error names all of them.
pub(crate) fn in_order(
    mut store: GradStore,
    parameters: &NamedVars,
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

/// Parameters handled per task: one alone is only a few microseconds of work.
pub(crate) const PARAMETERS_AT_ONCE: usize = 8;

/// Scales gradients down to a joint norm of at most `norm`; returns the norm before.
///
/// PyTorch equivalent: `torch.nn.utils.clip_grad_norm_`. Squares are summed in `f64`, in the given order and within
/// each gradient in chunks of 4,096 elements.
///
/// # Errors
/// If a tensor operation fails.
pub fn clip_gradients(gradients: &mut [Tensor], norm: f64) -> Result<f64> {
    let each = gradients.par_iter().with_min_len(PARAMETERS_AT_ONCE).map(squares);
    let had = norm_of(each.collect::<Result<Vec<_>>>()?.into_iter().flatten());
    clip_to(gradients, norm, had)?;
    Ok(had)
}

/// The norm, from the sums of squares.
pub(crate) fn norm_of(squares: impl Iterator<Item = f64>) -> f64 {
    squares.sum::<f64>().sqrt()
}

/// Scales gradients of norm `had` down to a norm of at most `norm`.
pub(crate) fn clip_to(gradients: &mut [Tensor], norm: f64, had: f64) -> Result<()> {
    // PyTorch's 1e-6, against division by zero.
    let scale = norm / (had + 1e-6);
    if scale < 1.0 {
        for gradient in gradients {
            *gradient = (&*gradient * scale)?;
        }
    }
    Ok(())
}

/// Elements of a gradient whose squares are summed together. Ranks divide parameters only at these borders, so they add
/// the same sums.
pub(crate) const CHUNK: usize = 4096;

/// `sum_i x_i^2` of each chunk.
fn squares(gradient: &Tensor) -> Result<Vec<f64>> {
    let (storage, layout) = gradient.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(values[start..end].chunks(CHUNK).map(squares_of).collect())
        }
        _ => Ok(vec![gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?]),
    }
}

/// `sum_i x_i^2` of one chunk.
pub(crate) fn squares_of(values: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (blocks, rest) = values.as_chunks::<LANES>();
    let square = |&x: &f32| f64::from(x) * f64::from(x);
    let mut lanes = [0.0_f64; LANES];
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, x)| *lane += square(x));
    }
    lanes.iter().sum::<f64>() + rest.iter().map(square).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn clipping_keeps_the_direction_and_small_gradients() -> Result<()> {
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
    fn parameters_without_gradient_are_named() -> Result<()> {
        let [used, unused] = [1.0_f32, 2.0].map(|value| Var::new(value, &Device::Cpu));
        let parameters = vec![("a.used".to_owned(), used?), ("b.unused".to_owned(), unused?)];
        let store = parameters[0].1.sqr()?.backward()?;
        let error = in_order(store, &parameters).unwrap_err().to_string();
        assert_eq!(error, "no gradient reached 1 of 2 parameters: b.unused");
        Ok(())
    }
}
