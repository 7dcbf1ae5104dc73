//! Testing an operation on the GPU against the CPU in `f64`.

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_random::{Random, Site};

use crate::gpu;

/// Tolerance relative to the tensor's largest entry, for sums of up to about ten thousand terms rounded to `f32`.
const TOLERANCE: f64 = 5e-6;

/// A function of several inputs.
type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Compares a function and its gradients on the GPU in `f32` with the CPU in `f64`, for inputs of these shapes.
pub(crate) fn assert_equals_the_cpu(
    label: &str,
    shapes: &[&[usize]],
    function: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let got = output_and_gradients(shapes, (DType::F32, &gpu()), &function)?;
    let want = output_and_gradients(shapes, (DType::F64, &Device::Cpu), &function)?;
    for (index, (got, want)) in got.iter().zip(&want).enumerate() {
        let what = if index == 0 { "output".into() } else { format!("gradient {}", index - 1) };
        let difference = largest_difference(got, want)?;
        assert!(difference <= TOLERANCE, "{label}, {shapes:?}: {what} differs by {difference:e}");
    }
    Ok(())
}

fn output_and_gradients(
    shapes: &[&[usize]],
    (dtype, device): (DType, &Device),
    function: Function,
) -> Result<Vec<Tensor>> {
    let variables = shapes.iter().enumerate().map(|(index, shape)| {
        Var::from_tensor(&normal(index as u32, shape)?.to_dtype(dtype)?.to_device(device)?)
    });
    let variables = variables.collect::<Result<Vec<_>>>()?;
    let inputs: Vec<Tensor> = variables.iter().map(|var| var.as_tensor().clone()).collect();
    let output = function(&inputs)?;
    // With a plain sum, the gradient behind a softmax or layer norm would be zero.
    let weights = normal(99, output.dims())?.to_dtype(dtype)?.to_device(device)?;
    let gradients = (&output * weights)?.sum_all()?.backward()?;
    let mut all = vec![output];
    for (index, variable) in variables.iter().enumerate() {
        let gradient = gradients.get(variable);
        all.push(gradient.unwrap_or_else(|| panic!("input {index} has no gradient")).clone());
    }
    Ok(all)
}

/// Fixed random numbers, rounded to `f32`.
pub(crate) fn normal(sample: u32, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Random::new(17).stream(Site::named("gpu"), sample);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn largest_difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), want.dims());
    let cpu = |xs: &Tensor| xs.to_device(&Device::Cpu)?.to_dtype(DType::F64);
    let (got, want) = (cpu(got)?, cpu(want)?);
    let difference = (&got - &want)?;
    // NaN would never be the largest difference.
    assert!(difference.sum_all()?.to_scalar::<f64>()?.is_finite(), "the difference is not finite");
    let largest = |xs: &Tensor| xs.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
    Ok(largest(&difference)? / largest(&want)?.max(1e-3))
}
