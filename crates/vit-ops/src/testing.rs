//! Test helpers: fused against composed, composed against finite differences.

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_random::{Random, Site};

/// Largest difference between the two `f32` forms relative to the tensor's largest entry: sums of up to a thousand
/// rounded terms in different orders.
const FUSED_TOLERANCE: f64 = 2e-6;
/// Central differences in `f64` with this step are accurate to about its square.
const STEP: f64 = 1e-5;
const DIFFERENCE_TOLERANCE: f64 = 1e-7;

/// Fixed random inputs of the given shapes, and checks of functions of them.
pub(crate) struct Case {
    inputs: Vec<Tensor>,
}

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

impl Case {
    pub(crate) fn new(shapes: &[&[usize]]) -> Result<Self> {
        let inputs = shapes.iter().enumerate().map(|(index, shape)| normal(index as u32, shape));
        Ok(Self { inputs: inputs.collect::<Result<_>>()? })
    }

    /// Asserts that outputs and the gradients of every input agree in `f32`.
    pub(crate) fn fused_equals_composed(
        &self,
        fused: impl Fn(&[Tensor]) -> Result<Tensor>,
        composed: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let got = self.output_and_gradients(DType::F32, &fused)?;
        let want = self.output_and_gradients(DType::F32, &composed)?;
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            let difference = largest_difference(got, want)?;
            let name = match index {
                0 => "output".to_owned(),
                _ => format!("gradient {}", index - 1),
            };
            assert!(
                difference <= FUSED_TOLERANCE,
                "{name} of {:?} differs by {difference:e}",
                want.dims()
            );
        }
        Ok(())
    }

    /// Asserts that autograd's gradients agree with central differences in `f64`.
    pub(crate) fn gradients_match_differences(
        &self,
        function: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let gradients = self.output_and_gradients(DType::F64, &function)?;
        for (index, gradient) in gradients[1..].iter().enumerate() {
            let gradient = gradient.flatten_all()?.to_vec1::<f64>()?;
            for (element, gradient) in gradient.into_iter().enumerate() {
                let moved = |by| self.weighted_output_with(index, element, by, &function);
                let difference = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
                assert!(
                    (gradient - difference).abs() <= DIFFERENCE_TOLERANCE * (1.0 + gradient.abs()),
                    "input {index}, element {element}: autograd {gradient}, differences {difference}"
                );
            }
        }
        Ok(())
    }

    fn output_and_gradients(&self, dtype: DType, function: Function) -> Result<Vec<Tensor>> {
        let variables = self.inputs.iter().map(|xs| Var::from_tensor(&xs.to_dtype(dtype)?));
        let variables = variables.collect::<Result<Vec<_>>>()?;
        let inputs: Vec<Tensor> = variables.iter().map(|var| var.as_tensor().clone()).collect();
        let output = function(&inputs)?;
        let gradients = weigh(&output)?.backward()?;
        let mut all = vec![output];
        for (index, variable) in variables.iter().enumerate() {
            let gradient = gradients.get(variable);
            all.push(gradient.unwrap_or_else(|| panic!("input {index} has no gradient")).clone());
        }
        Ok(all)
    }

    fn weighted_output_with(
        &self,
        input: usize,
        element: usize,
        by: f64,
        function: Function,
    ) -> Result<f64> {
        let mut inputs = self.inputs.clone();
        let mut values = inputs[input].flatten_all()?.to_vec1::<f64>()?;
        values[element] += by;
        inputs[input] = Tensor::from_vec(values, inputs[input].shape(), &Device::Cpu)?;
        weigh(&function(&inputs)?)?.to_scalar()
    }
}

/// Fixed random `f32` tensors of the given shapes.
pub(crate) fn tensors<const COUNT: usize>(shapes: &[&[usize]; COUNT]) -> Result<[Tensor; COUNT]> {
    let tensors = shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| normal(index as u32, shape)?.to_dtype(DType::F32));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    Ok(tensors.try_into().expect("as many tensors as shapes"))
}

/// A scalar: the output weighted by fixed random numbers, because a plain sum after a softmax or layer norm has
/// gradient zero.
fn weigh(output: &Tensor) -> Result<Tensor> {
    (output * normal(99, output.dims())?.to_dtype(output.dtype())?)?.sum_all()
}

fn normal(sample: u32, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Random::new(17).stream(Site::named("testing"), sample);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn largest_difference(got: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (got.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    let largest = |xs: &Tensor| xs.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
    let (difference, largest) = (largest(&(got - &want)?)?, largest(&want)?);
    // No relative difference exists for an exact zero, such as the gradient of a single class.
    Ok(if largest == 0.0 { difference } else { difference / largest })
}
