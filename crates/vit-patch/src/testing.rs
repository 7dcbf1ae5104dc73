//! Fixed random tensors, and gradient checks by finite differences in `f64`.

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use vit_random::{Random, Site};

/// Central differences in `f64` with this step are accurate to about its square.
const STEP: f64 = 1e-5;
const DIFFERENCE_TOLERANCE: f64 = 1e-7;

/// Normal numbers in `f64`, the same every time.
pub(crate) fn normal(shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let mut stream = Random::new(17).stream(Site::named("testing"), 0);
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

pub(crate) fn largest_difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), want.dims());
    let difference = (got.to_dtype(DType::F64)? - want.to_dtype(DType::F64)?)?;
    difference.abs()?.max_all()?.to_scalar()
}

/// Compares the gradient of `function`, its output weighted by fixed numbers, with central differences.
pub(crate) fn assert_gradient(
    name: &str,
    input: &Tensor,
    function: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    let var = Var::from_tensor(input)?;
    let gradients = weighed(&function(&var)?)?.backward()?;
    let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
    let values = input.flatten_all()?.to_vec1::<f64>()?;
    for (index, gradient) in gradient.flatten_all()?.to_vec1::<f64>()?.into_iter().enumerate() {
        let moved = |by: f64| {
            let mut values = values.clone();
            values[index] += by;
            let input = Tensor::from_vec(values, input.shape(), &Device::Cpu)?;
            weighed(&function(&input)?)?.to_scalar::<f64>()
        };
        let difference = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
        assert!(
            (gradient - difference).abs() <= DIFFERENCE_TOLERANCE * (1.0 + gradient.abs()),
            "{name}, element {index}: autograd {gradient}, differences {difference}"
        );
    }
    Ok(())
}

/// A scalar: the output weighted by fixed random numbers.
fn weighed(output: &Tensor) -> Result<Tensor> {
    (output * normal(output.shape())?.sin()?)?.sum_all()
}
