//! Outputs, losses, gradients and steps of Adam agree with PyTorch in `f32`; candle does not use tf32 by default.

use candle_core::Result;

use crate::{agreement, gpu, timm};

#[test]
fn products_are_not_rounded_to_tf32() {
    assert!(!candle_core::cuda_backend::gemm_reduced_precision_f32());
}

#[test]
fn outputs_losses_and_gradients_equal_pytorchs() -> Result<()> {
    agreement::outputs_losses_and_gradients_on(&gpu())?;
    timm::outputs_losses_and_gradients_on(&gpu())
}

#[test]
fn twenty_losses_and_ten_steps_of_adam_equal_pytorchs() -> Result<()> {
    agreement::twenty_losses_and_ten_steps_on(&gpu())
}

#[test]
fn a_hundred_steps_of_a_smooth_model_equal_pytorchs() -> Result<()> {
    agreement::a_hundred_steps_on(&gpu())
}
