//! Outputs, losses, gradients and optimiser steps agree with PyTorch.
//!
//! `tests/reference/make_fixtures.py` writes the fixtures. The tolerances come from comparing PyTorch with itself
//! there.

use candle_core::{DType, Device, Result, Tensor};
use vit_train::Optimizer;

use crate::fixture::{Fixture, KEY_BIAS, Model, TOLERANCE};

/// 100 steps in `f64`, composed form.
const F64_TOLERANCE: f64 = 1e-9;

/// The configurations of `tests/fixtures/agreement`.
const CASES: [&str; 11] = [
    "notebook",
    "shallow",
    "gelu",
    "cls",
    "mean",
    "qkv-bias",
    "sincos",
    "sincos-cls",
    "no-position",
    "softmax-dim",
    "rectangular",
];

#[test]
fn outputs_losses_and_gradients_equal_pytorchs() -> Result<()> {
    outputs_losses_and_gradients_on(&Device::Cpu)
}

#[test]
fn twenty_losses_and_ten_steps_of_adam_equal_pytorchs() -> Result<()> {
    twenty_losses_and_ten_steps_on(&Device::Cpu)
}

#[test]
fn a_hundred_steps_of_a_smooth_model_equal_pytorchs() -> Result<()> {
    a_hundred_steps_on(&Device::Cpu)
}

pub(crate) fn outputs_losses_and_gradients_on(device: &Device) -> Result<()> {
    for case in CASES {
        Fixture::read(&format!("agreement/{case}")).on(device)?.assert_agreement(case)?;
    }
    Ok(())
}

pub(crate) fn twenty_losses_and_ten_steps_on(device: &Device) -> Result<()> {
    for case in CASES {
        let fixture = Fixture::read(&format!("agreement/{case}")).on(device)?;
        let losses = train(&fixture, &fixture.model()?, 20)?;
        assert_losses(&losses, fixture.tensor("adam.losses"), TOLERANCE, case)?;
        let model = fixture.model()?;
        train(&fixture, &model, 10)?;
        assert_parameters(&fixture, &model, "adam.param", TOLERANCE, case)?;
    }
    Ok(())
}

pub(crate) fn a_hundred_steps_on(device: &Device) -> Result<()> {
    let fixture = Fixture::read("agreement/gelu").on(device)?;
    let model = fixture.model()?;
    let losses = train(&fixture, &model, 100)?;
    assert_losses(&losses, fixture.tensor("adam100.losses"), TOLERANCE, "gelu")?;
    assert_parameters(&fixture, &model, "adam100.param", TOLERANCE, "gelu")
}

#[test]
fn a_hundred_steps_in_f64_equal_pytorchs_to_nine_digits() -> Result<()> {
    for case in ["relu", "gelu", "adamw", "adam-decay"] {
        let fixture = Fixture::read(&format!("adam-f64/{case}"));
        let model = fixture.model()?;
        let losses = train(&fixture, &model, 100)?;
        assert_losses(&losses, fixture.tensor("losses"), F64_TOLERANCE, case)?;
        assert_parameters(&fixture, &model, "final", F64_TOLERANCE, case)?;
    }
    Ok(())
}

/// Trains on the fixture's single batch; returns the loss before each step.
fn train(fixture: &Fixture, model: &Model, steps: usize) -> Result<Vec<f64>> {
    let mut optimizer =
        Optimizer::new(fixture.optimizer, &model.parameters).map_err(candle_core::Error::wrap)?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        let loss = fixture.loss(&fixture.output(model)?)?;
        let mut store = loss.backward()?;
        let gradients = model.parameters.iter().map(|(name, var)| {
            store.remove(var).unwrap_or_else(|| panic!("{name} has no gradient"))
        });
        optimizer.step(&gradients.collect::<Vec<_>>())?;
        losses.push(loss.to_dtype(DType::F64)?.to_scalar()?);
    }
    Ok(losses)
}

fn assert_losses(got: &[f64], want: &Tensor, tolerance: f64, case: &str) -> Result<()> {
    let want = want.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    assert_eq!(got.len(), want.len());
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (got - want).abs();
        assert!(difference <= tolerance, "{case}: loss {step} is {got}, PyTorch's {want}");
    }
    Ok(())
}

fn assert_parameters(
    fixture: &Fixture,
    model: &Model,
    prefix: &str,
    tolerance: f64,
    case: &str,
) -> Result<()> {
    let norm = |xs: &Tensor| xs.to_dtype(DType::F64)?.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    for (name, var) in &model.parameters {
        let want = fixture.tensor(&format!("{prefix}.{name}"));
        for (part, got, want) in fixture.parts(name, var, want)? {
            if part == KEY_BIAS {
                continue;
            }
            let share = norm(&(&got - &want)?)? / norm(&want)?;
            assert!(share <= tolerance, "{case}: {name}{part} differs by {share:e} of its norm");
        }
    }
    Ok(())
}
