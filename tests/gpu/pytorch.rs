//! Outputs, losses, gradients and steps of Adam are PyTorch's, in `f32`: candle multiplies without tf32 unless it is
//! told otherwise.

use candle_core::Result;

use crate::agreement::{CASES, assert_losses, assert_parameters, train};
use crate::fixture::{Fixture, TOLERANCE};
use crate::gpu;

#[test]
fn no_product_is_rounded_to_tf32() {
    assert!(!candle_core::cuda_backend::gemm_reduced_precision_f32());
}

#[test]
fn outputs_losses_and_gradients_are_pytorchs() -> Result<()> {
    for case in CASES {
        Fixture::read(&format!("agreement/{case}")).on(&gpu())?.assert_agreement(case)?;
    }
    for case in ["plain", "registers", "narrow-heads"] {
        Fixture::read(&format!("timm/{case}")).on(&gpu())?.assert_agreement(case)?;
    }
    Ok(())
}

#[test]
fn twenty_losses_and_ten_steps_of_adam_are_pytorchs() -> Result<()> {
    for case in CASES {
        let fixture = Fixture::read(&format!("agreement/{case}")).on(&gpu())?;
        let losses = train(&fixture, &fixture.model()?, 20)?;
        assert_losses(&losses, fixture.tensor("adam.losses"), TOLERANCE, case)?;
        let model = fixture.model()?;
        train(&fixture, &model, 10)?;
        assert_parameters(&fixture, &model, "adam.param", TOLERANCE, case)?;
    }
    Ok(())
}

#[test]
fn a_hundred_steps_of_a_smooth_model_are_pytorchs() -> Result<()> {
    let fixture = Fixture::read("agreement/gelu").on(&gpu())?;
    let model = fixture.model()?;
    let losses = train(&fixture, &model, 100)?;
    assert_losses(&losses, fixture.tensor("adam100.losses"), TOLERANCE, "gelu")?;
    assert_parameters(&fixture, &model, "adam100.param", TOLERANCE, "gelu")
}
