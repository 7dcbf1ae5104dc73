//! Dtypes other than `f32`.

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_layers::{Encoder, Mode, Parameters, Pass, Random, TokenMask};

use crate::support::{DIM, configs, largest, largest_difference, normal, weigh};

/// The output and the gradient of the tokens, each as `f64`.
fn run(dtype: DType, cfg: &vit_layers::EncoderConfig) -> Result<[Tensor; 2]> {
    let vb = Parameters::seeded(5).builder(dtype, &Device::Cpu);
    let encoder = Encoder::new(cfg, &vb)?;
    let xs = Var::from_tensor(&normal("tokens", (2, 5, DIM))?.to_dtype(dtype)?)?;
    let mask = TokenMask::from_lengths(&[5, 3], 5)?;
    let pass = Pass::from(Mode::Train(Random::new(1).at_step(1))).masked(&mask);
    let ys = encoder.forward(&xs, pass)?;
    assert_eq!(ys.dtype(), dtype);
    let gradients = weigh(&ys)?.backward()?;
    let gradient = gradients.get(&xs).expect("a gradient");
    Ok([ys.to_dtype(DType::F64)?, gradient.to_dtype(DType::F64)?])
}

#[test]
fn half_precision_equals_rounded_double_precision() -> Result<()> {
    // A few tens of roundings to 24, 11 and 8 bits, after layer norms that divide by small deviations.
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 0.01), (DType::BF16, 0.06)] {
        for (label, cfg) in configs() {
            for (got, want) in run(dtype, &cfg)?.iter().zip(&run(DType::F64, &cfg)?) {
                let share = largest_difference(got, want)? / largest(want)?;
                assert!(share <= tolerance, "{label}, {dtype:?}: differs by {share}");
            }
        }
    }
    Ok(())
}

#[test]
fn tokens_of_another_dtype_are_rejected() -> Result<()> {
    let vb = Parameters::seeded(5).builder(DType::F32, &Device::Cpu);
    let encoder = Encoder::new(&vit_layers::EncoderConfig::new(DIM, 1, 2), &vb)?;
    for dtype in [DType::F64, DType::U32] {
        let xs = Tensor::ones((1, 2, DIM), dtype, &Device::Cpu)?;
        let error = encoder.forward(&xs, Mode::Eval).unwrap_err().to_string();
        let want = format!("encoder: expected xs of the parameters' dtype, F32, got {dtype:?}");
        assert!(error.contains(&want), "{error}");
    }
    Ok(())
}

#[test]
fn integer_parameters_are_rejected() {
    let vb = Parameters::seeded(5).builder(DType::U32, &Device::Cpu);
    let error = Encoder::new(&vit_layers::EncoderConfig::new(DIM, 1, 2), &vb.pp("text"));
    let error = error.unwrap_err().to_string();
    let want = "text: expected parameters of F64, F32, F16 or BF16, got U32";
    assert!(error.contains(want), "{error}");
}
