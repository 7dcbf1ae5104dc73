//! Position embeddings.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

/// The kind of a position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// None: the encoder sees a set of patches.
    None,
    /// A learned vector for each token, added (ViT, arXiv 2010.11929, eq. 1).
    Learned,
    /// Fixed sines and cosines of the patch's column and row, added (`posemb_sincos_2d` of big_vision).
    Sincos2d,
    /// A second linear map of the same patch, added. Unlike a position, it does not depend on the place.
    PatchLinear,
}

/// Which tokens a learned table of positions has a row for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionRows {
    /// Every token: the class token's row first, then the registers' (ViT, arXiv 2010.11929).
    #[default]
    Tokens,
    /// The patches alone: the table is added before any other token joins them (DeiT III, arXiv 2204.07118; timm's
    /// `no_embed_class`).
    Patches,
}

/// The fixed positions of a grid of patches, row by row: with `ω_k = 10000^(-k / (dim/4 - 1))`, the row of patch
/// (y, x) is `[sin ωx, cos ωx, sin ωy, cos ωy]`. `dim` is a multiple of 4, from 8.
///
/// # Shapes
/// -> (rows * columns, dim)
///
/// # Errors
/// If the device has no room.
pub fn sincos2d(
    (rows, columns): (usize, usize),
    dim: usize,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let quarter = dim / 4;
    let omega: Vec<f64> =
        (0..quarter).map(|k| 10_000_f64.powf(-(k as f64) / (quarter as f64 - 1.0))).collect();
    let mut table = Vec::with_capacity(rows * columns * dim);
    for y in 0..rows {
        for x in 0..columns {
            for place in [x, y] {
                table.extend(omega.iter().map(|omega| (place as f64 * omega).sin()));
                table.extend(omega.iter().map(|omega| (place as f64 * omega).cos()));
            }
        }
    }
    Tensor::from_vec(table, (rows * columns, dim), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sines_and_cosines_are_of_column_then_row() -> Result<()> {
        let table = sincos2d((2, 3), 8, DType::F64, &Device::Cpu)?.to_vec2::<f64>()?;
        assert_eq!(table.len(), 6);
        // Patch (y, x) = (1, 2), with frequencies 1 and 1/10000.
        let want = [2_f64, 2e-4, 2.0, 2e-4, 1.0, 1e-4, 1.0, 1e-4];
        for (index, (got, angle)) in table[5].iter().zip(want).enumerate() {
            let want = if index % 4 < 2 { angle.sin() } else { angle.cos() };
            assert!((got - want).abs() < 1e-12, "{index}: {got} {want}");
        }
        Ok(())
    }
}
