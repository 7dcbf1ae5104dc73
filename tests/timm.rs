//! What timm computes: small models of its own `VisionTransformer`, and positions for another grid of patches.
//!
//! The fixtures are written by `tests/reference/timm_fixtures.py`.

use candle_core::{DType, Device, Result};
use vit_patch::{Resampling, resample_positions};

use crate::files::test_file;
use crate::fixture::{Fixture, largest_entry};

/// A class token alone; registers with layer scale, norms of queries and keys and a table for patches alone; heads
/// of a width of their own, without biases, on a grid that is no square.
const MODELS: [&str; 3] = ["plain", "registers", "narrow-heads"];
/// Positions are weighed in `f32` by both.
const POSITION_TOLERANCE: f64 = 1e-6;

#[test]
fn outputs_losses_and_gradients_are_timms() -> Result<()> {
    outputs_losses_and_gradients_on(&Device::Cpu)
}

pub(crate) fn outputs_losses_and_gradients_on(device: &Device) -> Result<()> {
    for model in MODELS {
        Fixture::read(&format!("timm/{model}")).on(device)?.assert_agreement(model)?;
    }
    Ok(())
}

#[test]
fn positions_for_another_grid_are_timms() -> Result<()> {
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
