//! Matrix products on slices, on one thread or split into tiles of the output.
//!
//! An element is `((bias + s_1) + s_2) + ...`, where each `s` is a sum of up to 256 products in order, and each product
//! is added with a single rounding (fused multiply-add). So tiles, threads and instruction sets change no bit; only
//! portable code on a machine without fused multiply-add does. A single contiguous row times contiguous columns is
//! summed in lanes instead.

mod kernel;
mod pack;
mod row;

use crate::buffer::Buffer;
use crate::matrix::{Block, Matrix, MatrixMut};
use crate::parallel;
use crate::slices::LANES;
use kernel::{DEPTH, ROWS, branches, product};
use pack::{Panels, Tiles};
use row::row_product;

/// Wanted number of tiles of a split product, so that threads end together.
const TILES: usize = 16;

/// Rows up to which a product is split by columns: packing the right operand is a large part of such a product, and each
/// thread packs only its own columns, without waiting for others.
const FEW_ROWS: usize = 512;

/// Smallest columns of a piece: two panels, which a kernel may read together.
const WIDTH: usize = 2 * LANES;

/// Cost of packing a number in multiply-adds.
const PACKING_COST: usize = 4;

/// `lhs · rhs`, with `bias` added to each row, contiguous.
pub(crate) fn matmul(lhs: Matrix, rhs: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let mut values = vec![0.0; lhs.rows * rhs.columns];
    matmul_into(lhs, rhs, bias, &mut values);
    values
}

/// The same into `out`, overwriting it.
pub(crate) fn matmul_into(lhs: Matrix, rhs: Matrix, bias: Option<&[f32]>, out: &mut [f32]) {
    matmul_by((lhs, DEPTH), rhs, bias, out);
}

/// The same for products that are summed in pieces: each `s` is the sum along a binary tree of up to four sums of `piece`
/// products, at most 256 in all.
pub(crate) fn matmul_by(
    (lhs, piece): (Matrix, usize),
    rhs: Matrix,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let (rows, columns) = (lhs.rows, rhs.columns);
    assert_eq!(out.len(), rows * columns, "numbers in the product");
    let piece = piece.clamp(1, DEPTH);
    let mut out = MatrixMut::strided(out, rows, columns, columns);
    let multiply_adds = rows * columns * lhs.columns;
    if rows == 1 || !parallel::splits(multiply_adds) {
        return multiply_with((lhs, piece), rhs, bias, &mut out);
    }
    let busy = 2 * parallel::threads();
    if rows <= FEW_ROWS && columns >= busy * WIDTH && Tiles::packed_len(lhs) == 0 {
        let width = (columns / TILES / WIDTH).max(1) * WIDTH;
        let pieces = out.blocks((rows, width));
        return parallel::for_each(multiply_adds, pieces, |Block { column, mut out, .. }| {
            let columns = out.columns;
            let bias = bias.map(|bias| &bias[column..][..columns]);
            multiply_with((lhs, piece), rhs.columns(column, columns), bias, &mut out);
        });
    }
    let mut packed = Buffer::dirty(Panels::len(rhs));
    let pieces = Panels::pieces(rhs, &mut packed);
    let cost = PACKING_COST * rhs.rows * columns;
    parallel::for_each(cost, pieces, |(columns, panel)| pack::pack(columns, panel));
    let panels = Panels::packed(&packed, rhs.rows);
    parallel::for_each_with(
        multiply_adds,
        out.blocks(tile(rows, columns)),
        || Buffer::dirty(Tiles::packed_len(lhs)),
        |scratch, Block { row, column, mut out }| {
            let lhs = lhs.rows(row, out.rows);
            let bias = bias.map(|bias| &bias[column..][..out.columns]);
            product((lhs, piece), panels.at_column(column), bias, scratch, &mut out);
        },
    );
}

/// How many pieces of so many products [`matmul_by`] adds along a binary tree, a power of two.
pub(crate) fn pieces_at_once(piece: usize) -> usize {
    if piece > DEPTH { 1 } else { 2 * branches(piece.max(1)) }
}

/// `out = lhs · rhs`, on this thread.
pub(crate) fn multiply(lhs: Matrix, rhs: Matrix, out: &mut MatrixMut) {
    multiply_with((lhs, DEPTH), rhs, None, out);
}

fn multiply_with(
    (lhs, piece): (Matrix, usize),
    rhs: Matrix,
    bias: Option<&[f32]>,
    out: &mut MatrixMut,
) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions");
    assert_eq!((out.rows, out.columns), (lhs.rows, rhs.columns), "rows and columns of the output");
    if lhs.rows == 1 && lhs.contiguous_rows().is_some() && rhs.contiguous_rows().is_none() {
        return row_product(lhs.row(0), rhs, bias, out.row(0));
    }
    let mut scratch = Buffer::dirty(Tiles::packed_len(lhs));
    if let Some(panels) = Panels::in_place(rhs, lhs.rows) {
        return product((lhs, piece), panels, bias, &mut scratch, out);
    }
    let mut packed = Buffer::dirty(Panels::len(rhs));
    let pieces = Panels::pieces(rhs, &mut packed);
    pieces.for_each(|(columns, panel)| pack::pack(columns, panel));
    product((lhs, piece), Panels::packed(&packed, rhs.rows), bias, &mut scratch, out);
}

/// Rows and columns of a tile: all columns, unless there are few rows.
fn tile(rows: usize, columns: usize) -> (usize, usize) {
    let parts = TILES.div_ceil(rows.div_ceil(ROWS).max(1));
    (ROWS, columns.div_ceil(parts).next_multiple_of(WIDTH).max(WIDTH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::tests::assert_threads_do_not_show;

    fn data(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
    }

    /// Element (row, column) of the product.
    fn naive(lhs: Matrix, rhs: Matrix, row: usize, column: usize) -> f32 {
        (0..lhs.columns)
            .map(|k| f64::from(lhs.at(row, k)) * f64::from(rhs.at(k, column)))
            .sum::<f64>() as f32
    }

    /// Every layout of two operands of these sizes.
    fn operands(
        data: &[f32],
        (rows, inner, columns): (usize, usize, usize),
    ) -> impl Iterator<Item = (Matrix<'_>, Matrix<'_>)> {
        let of = |rows: usize, columns: usize, from: usize| {
            let data = &data[from..];
            let straight = [0, 3].map(|gap| Matrix::strided(data, rows, columns, columns + gap));
            let turned = [0, 3].map(|gap| Matrix::strided(data, columns, rows, rows + gap));
            straight.into_iter().chain(turned.map(Matrix::transposed))
        };
        of(rows, inner, 0).flat_map(move |lhs| of(inner, columns, 5).map(move |rhs| (lhs, rhs)))
    }

    #[test]
    fn products_equal_three_loops() {
        let data = data(9000);
        let sizes = [
            (1, 1, 1),
            (3, 5, 7),
            (6, 8, 16),
            (17, 9, 33),
            (2, 0, 3),
            (2, 0, 32),
            (0, 3, 2),
            (50, 2, 10),
            (1, 600, 4),
            (7, 300, 3),
        ];
        for size in sizes {
            for (lhs, rhs) in operands(&data, size) {
                let mut got = vec![f32::NAN; size.0 * size.2];
                matmul_into(lhs, rhs, None, &mut got);
                let shifted = matmul(lhs, rhs, Some(&data[..size.2]));
                for (index, got) in got.into_iter().enumerate() {
                    let (row, column) = (index / size.2, index % size.2);
                    let want = naive(lhs, rhs, row, column);
                    assert!((got - want).abs() < 1e-4, "{size:?} {index}: {got} {want}");
                    let want = want + data[column];
                    assert!((shifted[index] - want).abs() < 1e-4, "{size:?} {index}");
                }
            }
        }
    }

    #[test]
    fn only_the_block_is_written() {
        let data = data(60);
        let (lhs, rhs) = (Matrix::new(&data, 3, 4), Matrix::new(&data[20..], 4, 5));
        let mut out = vec![7.0; 5 * 9];
        for Block { row, column, mut out } in
            MatrixMut::strided(&mut out[2..], 3, 5, 9).blocks((2, 3))
        {
            let (rows, columns) = (out.rows, out.columns);
            multiply(lhs.rows(row, rows), rhs.columns(column, columns), &mut out);
        }
        for (index, got) in out.into_iter().enumerate() {
            let (row, column) = (index / 9, index % 9);
            let is_inside = row < 3 && (2..7).contains(&column);
            let want = if is_inside { naive(lhs, rhs, row, column - 2) } else { 7.0 };
            assert!((got - want).abs() < 1e-5, "{index}: {got} {want}");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        // Several tiles in each direction; long sums; small products.
        for size in [
            (1030, 64, 101),
            (67, 1576, 101),
            (64, 128, 384),
            (17, 512, 128),
            (67, 3, 2048),
            (300, 65, 128),
            (512, 9, 640),
            (513, 9, 640),
        ] {
            let data = data(size.1 * size.0.max(size.2) + 4 * size.1 + 4 * size.0 + 4 * size.2 + 9);
            for (lhs, rhs) in operands(&data, size) {
                assert_threads_do_not_show(|| matmul(lhs, rhs, Some(&data[..size.2])));
            }
        }
    }
}
