//! The tests that need a GPU, as one binary.

use candle_core::{Device, Result, Tensor};

#[test]
fn a_gpu_can_be_computed_on() -> Result<()> {
    let device = Device::new_cuda_with_stream(0)?;
    let sum = Tensor::new(&[1.0_f32, 2.0, 3.0], &device)?.sum_all()?.to_scalar::<f32>()?;
    assert_eq!(sum, 6.0);
    Ok(())
}
