//! Fixed random tensors, small configurations and gradient checks.

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_layers::{DropoutRates, EncoderConfig, NormPlacement, Parameters, Random};
use vit_random::Site;

pub(crate) const DIM: usize = 8;

/// Fixed random numbers, different for each name.
pub(crate) fn normal(name: &str, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let mut stream = Random::new(11).stream(Site::named(name), 0);
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

pub(crate) fn largest(xs: &Tensor) -> Result<f64> {
    xs.to_dtype(DType::F64)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

pub(crate) fn largest_difference(xs: &Tensor, ys: &Tensor) -> Result<f64> {
    assert_eq!(xs.dims(), ys.dims());
    largest(&(xs.to_dtype(DType::F64)? - ys.to_dtype(DType::F64)?)?)
}

/// Small configurations with their names, one per field that changes an equation.
pub(crate) fn configs() -> Vec<(&'static str, EncoderConfig)> {
    let plain = EncoderConfig { mlp_dim: 6, ..EncoderConfig::new(DIM, 2, 2) };
    vec![
        ("post-norm", EncoderConfig { norm: NormPlacement::Post, ..plain.clone() }),
        ("qk-norm", EncoderConfig { qk_norm: true, ..plain.clone() }),
        ("layer scale", EncoderConfig { layer_scale: Some(0.5), ..plain.clone() }),
        ("narrow heads", EncoderConfig { heads: 3, head_dim: Some(3), ..plain.clone() }),
        ("rotary", EncoderConfig { rotary: Some(100.0), ..plain.clone() }),
        ("no bias", EncoderConfig { qkv_bias: false, ..plain.clone() }),
        (
            "all at once, with dropout",
            EncoderConfig {
                norm: NormPlacement::Post,
                qk_norm: true,
                layer_scale: Some(0.5),
                heads: 3,
                head_dim: Some(3),
                dropout: DropoutRates::all(0.3),
                drop_path: 0.3,
                ..plain.clone()
            },
        ),
        ("plain", plain),
    ]
}

/// Perturbs every parameter, so that an ignored one shows.
pub(crate) fn roughen(parameters: &Parameters) -> Result<()> {
    for (name, var) in parameters.sorted() {
        let noise = (normal(&name, var.shape())? * 0.3)?.to_dtype(var.dtype())?;
        var.set(&(var.as_tensor() + noise)?)?;
    }
    Ok(())
}

/// A scalar: the output weighted by fixed random numbers, because a plain sum after a layer norm has gradient zero.
pub(crate) fn weigh(ys: &Tensor) -> Result<Tensor> {
    (ys * normal("weigh", ys.shape())?.to_dtype(ys.dtype())?)?.sum_all()
}

/// Central differences in `f64` with this step are accurate to about its square.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;
/// The number of tested elements, spread over a tensor.
const ELEMENTS: usize = 16;

/// Compares the gradients of every parameter and of the inputs with finite differences, in `f64`.
pub(crate) fn assert_gradients_match_differences(
    label: &str,
    parameters: &Parameters,
    inputs: &[&Var],
    forward: impl Fn() -> Result<Tensor>,
) -> Result<()> {
    let gradients = weigh(&forward()?)?.backward()?;
    let inputs =
        inputs.iter().enumerate().map(|(index, var)| (format!("input {index}"), (*var).clone()));
    for (name, var) in parameters.sorted().into_iter().chain(inputs) {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{label}: {name} has none"));
        let gradient = gradient.flatten_all()?.to_vec1::<f64>()?;
        let values = var.flatten_all()?.to_vec1::<f64>()?;
        let apart = values.len().div_ceil(ELEMENTS);
        for (element, gradient) in gradient.into_iter().enumerate().step_by(apart) {
            let moved = |by: f64| {
                let mut values = values.clone();
                values[element] += by;
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
                weigh(&forward()?)?.to_scalar::<f64>()
            };
            let difference = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
            assert!(
                (gradient - difference).abs() <= TOLERANCE * (1.0 + gradient.abs()),
                "{label}: {name}[{element}]: autograd {gradient}, differences {difference}"
            );
        }
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok(())
}
