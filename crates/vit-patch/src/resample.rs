//! Learned positions for another grid of patches: a model of 224 px used at 384 px.

use candle_core::{DType, Device, Result, Tensor, bail};

/// Cells on either side that the cubic kernel reaches.
const REACH: f64 = 2.0;

/// How positions are resampled. The two libraries differ by up to several per cent of a position, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resampling {
    /// Like timm: the kernel (a = -0.5) is widened by the factor by which the grid shrinks, so no position is skipped.
    /// At the borders the remaining weights are scaled to sum to 1.
    ///
    /// PyTorch equivalent: `timm.layers.resample_abs_pos_embed(table, to, from, num_prefix_tokens=prefix)`, that is
    /// `F.interpolate(grid, to, mode="bicubic", antialias=True)`.
    #[default]
    Timm,
    /// Like Hugging Face transformers: the kernel (a = -0.75) keeps its width, and border positions repeat outward.
    ///
    /// PyTorch equivalent: `interpolate_pos_encoding=True` of transformers' `ViTModel`, that is
    /// `F.interpolate(grid, to, mode="bicubic", align_corners=False)`.
    Hf,
}

/// A table of positions resampled from one grid of patches to another: `y = R x Cᵀ` for each column `x` of the table
/// laid out as a grid, with fixed matrices `R` of its rows and `C` of its columns. Prefix rows, which belong
/// to no patch, are copied. Equal grids return the table unchanged.
///
/// The matrices interpolate with a cubic kernel, as the [`Resampling`] says. Half precision is resampled in `f32`.
///
/// # Shapes
/// `table` (1, prefix + rows * columns, dim) of the grid `from` -> the same of the grid `to`; a grid is
/// (rows, columns), as [`PatchConfig::grid`](crate::PatchConfig::grid) gives it
///
/// # Errors
/// If the table has another number of rows, or a grid has none.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vit_patch::{Resampling, resample_positions};
///
/// # fn main() -> candle_core::Result<()> {
/// let at_224 = Tensor::ones((1, 1 + 14 * 14, 8), DType::F32, &Device::Cpu)?;
/// let at_384 = resample_positions(&at_224, 1, (14, 14), (24, 24), Resampling::Timm)?;
/// assert_eq!(at_384.dims(), [1, 1 + 24 * 24, 8]);
/// # Ok(())
/// # }
/// ```
pub fn resample_positions(
    table: &Tensor,
    prefix: usize,
    from: (usize, usize),
    to: (usize, usize),
    resampling: Resampling,
) -> Result<Tensor> {
    let (one, tokens, dim) = table.dims3()?;
    let [(rows, columns), (new_rows, new_columns)] = [from, to];
    for (rows, columns) in [from, to] {
        if rows == 0 || columns == 0 {
            bail!("resample positions: expected a grid of patches, got {rows}x{columns}");
        }
    }
    if one != 1 || tokens != prefix + rows * columns {
        bail!(
            "resample positions: expected a table of shape (1, {prefix} + {rows} * {columns}, dim), got {:?}",
            table.dims()
        );
    }
    if from == to {
        return Ok(table.clone());
    }
    let dtype = if table.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let matrix = |from, to| {
        let weights = match resampling {
            Resampling::Timm => antialiased(from, to),
            Resampling::Hf => plain(from, to),
        };
        Tensor::from_vec(weights, (to, from), &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(table.device())
    };
    let grid = table.narrow(1, prefix, rows * columns)?.contiguous()?.to_dtype(dtype)?;
    let grid = grid.reshape((rows, columns * dim))?;
    let grid = matrix(rows, new_rows)?.matmul(&grid)?; // (new rows, columns * dim)
    let grid = grid.reshape((new_rows, columns, dim))?;
    let by_columns = matrix(columns, new_columns)?.broadcast_left(new_rows)?.contiguous()?;
    let grid = by_columns.matmul(&grid)?; // (new rows, new columns, dim)
    let grid = grid.reshape((1, new_rows * new_columns, dim))?.to_dtype(table.dtype())?;
    Tensor::cat(&[&table.narrow(1, 0, prefix)?, &grid], 1)
}

/// The matrix of shape (to, from) that resamples a line of cells, with a kernel widened by the factor of reduction.
fn antialiased(from: usize, to: usize) -> Vec<f64> {
    let scale = from as f32 / to as f32;
    let stretch = f64::from(scale.max(1.0));
    let mut matrix = Vec::with_capacity(to * from);
    for cell in 0..to {
        // Both lines span the same length, and a cell's value lies at its middle: to `f32`, as PyTorch has it. On a
        // line of 14 cells the rounding already shows in the sixth digit of the result.
        let middle = f64::from(scale * (cell as f32 + 0.5));
        let distance = |other: usize| (other as f64 + 0.5 - middle) / stretch;
        let row: Vec<f64> = (0..from).map(|other| cubic(distance(other), -0.5)).collect();
        let sum: f64 = row.iter().sum();
        matrix.extend(row.into_iter().map(|weight| weight / sum));
    }
    matrix
}

/// The same with a kernel of four cells.
fn plain(from: usize, to: usize) -> Vec<f64> {
    let scale = from as f32 / to as f32;
    let mut matrix = vec![0.0; to * from];
    for (cell, row) in matrix.chunks_mut(from).enumerate() {
        let place = f64::from(scale * (cell as f32 + 0.5) - 0.5);
        for offset in -1..=2 {
            let other = place.floor() + f64::from(offset);
            let at = other.clamp(0.0, (from - 1) as f64) as usize;
            row[at] += cubic(place - other, -0.75);
        }
    }
    matrix
}

/// Keys' cubic convolution kernel (*Cubic Convolution Interpolation for Digital Image Processing*, 1981, eq. 15).
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < REACH {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_gradient, largest_difference, normal};

    #[test]
    fn equal_grids_change_nothing() -> Result<()> {
        let table = normal((1, 2 + 6, 3))?;
        let again = resample_positions(&table, 2, (2, 3), (2, 3), Resampling::Timm)?;
        assert_eq!(largest_difference(&again, &table)?, 0.0);
        Ok(())
    }

    #[test]
    fn the_prefix_is_kept_and_the_rest_has_the_new_grids_size() -> Result<()> {
        for prefix in [0, 1, 5] {
            let table = normal((1, prefix + 12, 3))?;
            let resampled = resample_positions(&table, prefix, (3, 4), (5, 2), Resampling::Timm)?;
            assert_eq!(resampled.dims(), [1, prefix + 10, 3]);
            if prefix > 0 {
                let kept = [&resampled, &table].map(|table| table.narrow(1, 0, prefix));
                let [got, want] = kept;
                assert_eq!(largest_difference(&got?, &want?)?, 0.0);
            }
        }
        Ok(())
    }

    /// Also at the borders, where the kernel reaches beyond the grid.
    #[test]
    fn a_constant_stays_constant() -> Result<()> {
        let table = Tensor::ones((1, 12, 1), DType::F64, &Device::Cpu)?;
        let ways = [Resampling::Timm, Resampling::Hf];
        for (grid, resampling) in
            [(7, 9), (2, 1), (1, 13)].into_iter().flat_map(|grid| ways.map(|way| (grid, way)))
        {
            let resampled = resample_positions(&table, 0, (3, 4), grid, resampling)?;
            assert!(largest_difference(&resampled, &resampled.ones_like()?)? < 1e-15);
        }
        Ok(())
    }

    /// `F.interpolate(grid, to, mode="bicubic", align_corners=False)` of PyTorch 2.15, of the values `7 * at % 5`.
    #[test]
    fn positions_resampled_as_transformers_does_are_pytorchs() -> Result<()> {
        let values: Vec<f64> = (0..12).map(|at| f64::from(7 * at % 5)).collect();
        let table = Tensor::from_vec(values, (1, 12, 1), &Device::Cpu)?;
        let narrow = [
            0.7645, 2.6395, 0.93675, 3.059249, 1.3125, 3.1875, 1.941375, 1.712625, 2.37425, 0.48175,
        ];
        let wide = [
            0.681401, 0.851785, 1.301343, 2.769165, 3.610858, 2.520037, 1.564744, 1.489995,
            1.909014, 2.29669, 1.177246, 0.421054, 1.702383, 2.774467,
        ];
        for (grid, expected) in [((5, 2), &narrow[..]), ((2, 7), &wide)] {
            let got = resample_positions(&table, 0, (3, 4), grid, Resampling::Hf)?;
            let expected = Tensor::new(expected, &Device::Cpu)?.reshape(got.dims())?;
            assert!(largest_difference(&got, &expected)? < 2e-6, "{grid:?}");
        }
        Ok(())
    }

    #[test]
    fn turning_the_grid_turns_the_result() -> Result<()> {
        let grid = normal((3, 4, 2))?;
        let table = |grid: &Tensor| grid.flatten(0, 1)?.unsqueeze(0);
        let resampled = resample_positions(&table(&grid)?, 0, (3, 4), (5, 2), Resampling::Timm)?;
        let turned = grid.transpose(0, 1)?.contiguous()?;
        let turned = resample_positions(&table(&turned)?, 0, (4, 3), (2, 5), Resampling::Timm)?;
        let back = turned.reshape((2, 5, 2))?.transpose(0, 1)?.reshape((1, 10, 2))?;
        assert!(largest_difference(&resampled, &back)? < 1e-14);
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for grid in [(3, 5), (1, 2)] {
            assert_gradient("the table", &normal((1, 7, 2))?, |table| {
                resample_positions(table, 1, (2, 3), grid, Resampling::Timm)
            })?;
        }
        Ok(())
    }

    #[test]
    fn half_precision_is_resampled_in_single() -> Result<()> {
        let table = normal((1, 13, 2))?.to_dtype(DType::BF16)?;
        let half = resample_positions(&table, 1, (3, 4), (2, 5), Resampling::Timm)?;
        assert_eq!(half.dtype(), DType::BF16);
        let single =
            resample_positions(&table.to_dtype(DType::F32)?, 1, (3, 4), (2, 5), Resampling::Timm)?;
        assert_eq!(largest_difference(&half, &single.to_dtype(DType::BF16)?)?, 0.0);
        Ok(())
    }

    #[test]
    fn a_table_of_another_grid_is_named() -> Result<()> {
        let table = normal((1, 13, 2))?;
        for (from, to, message) in [
            ((3, 3), (4, 4), "expected a table of shape (1, 1 + 3 * 3, dim), got [1, 13, 2]"),
            ((3, 4), (0, 4), "expected a grid of patches, got 0x4"),
        ] {
            let error =
                resample_positions(&table, 1, from, to, Resampling::Hf).unwrap_err().to_string();
            assert!(error.contains(&format!("resample positions: {message}")), "{error}");
        }
        Ok(())
    }
}
