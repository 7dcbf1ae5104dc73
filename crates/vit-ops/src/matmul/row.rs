//! The product of a single row, for which packing would take longer than the product.

use crate::lanes::Lanes;
use crate::matrix::Matrix;
use crate::simd::{self, Kernel};
use crate::slices::LANES;

/// Columns at a time, so that sums do not wait for one another.
const COLUMNS: usize = 4;

/// `out = row · rhs + bias` for contiguous columns. Each sum is computed in lanes, so its last bits differ from the
/// same row's in a product of several.
pub(super) fn row_product(row: &[f32], rhs: Matrix, bias: Option<&[f32]>, out: &mut [f32]) {
    simd::run_fused(RowProduct { row, rhs, out });
    if let Some(bias) = bias {
        out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
    }
}

struct RowProduct<'a, 'b> {
    row: &'a [f32],
    rhs: Matrix<'a>,
    out: &'b mut [f32],
}

impl Kernel for RowProduct<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { row, rhs, out } = self;
        let (whole, rest) = out.as_chunks_mut::<COLUMNS>();
        let done = COLUMNS * whole.len();
        for (index, out) in whole.iter_mut().enumerate() {
            let mut columns = [row; COLUMNS];
            for (offset, column) in columns.iter_mut().enumerate() {
                *column = rhs.column(COLUMNS * index + offset);
            }
            *out = dots(lanes, row, columns);
        }
        for (index, out) in rest.iter_mut().enumerate() {
            [*out] = dots(lanes, row, [rhs.column(done + index)]);
        }
    }
}

/// The dot products of a row with columns.
#[inline(always)]
fn dots<L: Lanes, const N: usize>(lanes: L, row: &[f32], columns: [&[f32]; N]) -> [f32; N] {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let columns = columns.map(|column| {
        let (blocks_of_column, rest_of_column) = column.as_chunks::<LANES>();
        (&blocks_of_column[..blocks.len()], rest_of_column)
    });
    let mut sums = [lanes.splat(0.0); N];
    for (index, block) in blocks.iter().enumerate() {
        let values = lanes.load(block);
        for (sum, (blocks, _)) in sums.iter_mut().zip(columns) {
            *sum = lanes.mul_add(values, lanes.load(&blocks[index]), *sum);
        }
    }
    let mut totals = [0.0; N];
    for ((total, sum), (_, rest_of_column)) in totals.iter_mut().zip(sums).zip(columns) {
        let of_rest = rest.iter().zip(rest_of_column).map(|(a, b)| a * b).sum::<f32>();
        *total = lanes.sum(sum) + of_rest;
    }
    totals
}
