//! Agreement with timm: small models of its `VisionTransformer`, and resampled positions.
//!
//! `tests/reference/timm_fixtures.py` writes the fixtures.

use candle_core::{DType, Device, Result};
use vit_patch::{Resampling, resample_positions};

use crate::files::test_file;
use crate::fixture::{Fixture, largest_entry};

/// A class token; registers with layer scale, QK norm and positions for patches only; custom head width without biases
/// on a non-square grid.
const MODELS: [&str; 3] = ["plain", "registers", "narrow-heads"];
/// Both libraries resample positions in `f32`.
const POSITION_TOLERANCE: f64 = 1e-6;

#[test]
fn outputs_losses_and_gradients_equal_timms() -> Result<()> {
    outputs_losses_and_gradients_on(&Device::Cpu)
}

pub(crate) fn outputs_losses_and_gradients_on(device: &Device) -> Result<()> {
    for model in MODELS {
        Fixture::read(&format!("timm/{model}")).on(device)?.assert_agreement(model)?;
    }
    Ok(())
}

#[test]
fn resampled_positions_equal_timms() -> Result<()> {
    let path = test_file("fixtures/timm/resampled.safetensors");
    let tensors = vit_model::ModelFile::open(&path).and_then(|file| file.tensors());
    let tensors = tensors.expect("a committed fixture");
    for case in ["up", "down", "wide", "224-at-384"] {
        let sizes = tensors[&format!("{case}.sizes")].to_dtype(DType::U32)?.to_vec1::<u32>()?;
        let sizes: Vec<usize> = sizes.into_iter().map(|size| size as usize).collect();
        let [prefix, rows, columns, new_rows, new_columns] = sizes[..] else {
            panic!("{case}: a prefix and two grids, got {sizes:?}")
        };
        let table = &tensors[&format!("{case}.table")];
        let got = resample_positions(
            table,
            prefix,
            (rows, columns),
            (new_rows, new_columns),
            Resampling::Timm,
        )?;
        let want = &tensors[&format!("{case}.resampled")];
        assert_eq!(got.dims(), want.dims(), "{case}");
        let share = largest_entry(&(got - want)?)? / largest_entry(want)?;
        assert!(share <= POSITION_TOLERANCE, "{case} differs by {share:e} of its largest entry");
    }
    Ok(())
}
