//! Outputs, losses, gradients and steps of Adam are PyTorch's, in `f32`: candle multiplies without tf32 unless it is
//! told otherwise.

use candle_core::Result;

use crate::{agreement, gpu, timm};

#[test]
fn no_product_is_rounded_to_tf32() {
    assert!(!candle_core::cuda_backend::gemm_reduced_precision_f32());
}

#[test]
fn outputs_losses_and_gradients_are_pytorchs() -> Result<()> {
    agreement::outputs_losses_and_gradients_on(&gpu())?;
    timm::outputs_losses_and_gradients_on(&gpu())
}

#[test]
fn twenty_losses_and_ten_steps_of_adam_are_pytorchs() -> Result<()> {
    agreement::twenty_losses_and_ten_steps_on(&gpu())
}

#[test]
fn a_hundred_steps_of_a_smooth_model_are_pytorchs() -> Result<()> {
    agreement::a_hundred_steps_on(&gpu())
}
