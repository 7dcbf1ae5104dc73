//! Matrix products on slices through the `gemm` crate, on one thread or split into tiles of the output.
#![expect(unsafe_code, reason = "gemm takes pointers and strides; the bounds are checked here")]

use std::marker::PhantomData;

use crate::parallel;

/// Rows and columns of a tile of a large product. `gemm` packs the operand of the columns once per row of tiles, but
/// once for each column, so tall narrow tiles cost nothing against the whole product.
const TILE: (usize, usize) = (512, 48);
/// The most columns that `gemm`'s kernels take at once.
const REGISTER: usize = 8;
/// Tiles of a small split product.
const SMALL_TILES: usize = 4;

/// A matrix inside a slice: element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` contiguous rows of `columns` elements.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows of `columns` elements, `row_stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        check_bounds(data.len(), rows, columns, row_stride);
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose, as a view.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// `rows` rows from `row` on.
    pub(crate) fn rows(self, row: usize, rows: usize) -> Self {
        assert!(row + rows <= self.rows, "expected rows below {}, got {}", self.rows, row + rows);
        let start = (row * self.row_stride).min(self.data.len());
        Self { data: &self.data[start..], rows, ..self }
    }

    /// `columns` columns from `column` on.
    pub(crate) fn columns(self, column: usize, columns: usize) -> Self {
        self.transposed().rows(column, columns).transposed()
    }
}

/// A matrix to write to, which may be a block of a larger one. Its rows are `row_stride` apart.
pub(crate) struct MatrixMut<'a> {
    data: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: it represents a mutable borrow of its elements, which may move to another thread.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// `rows` rows of `columns` elements, `row_stride` apart.
    pub(crate) fn strided(
        data: &'a mut [f32],
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> Self {
        check_bounds(data.len(), rows, columns, row_stride);
        assert!(columns <= row_stride, "expected rows that do not overlap");
        Self { data: data.as_mut_ptr(), rows, columns, row_stride, borrowed: PhantomData }
    }

    /// Splits after `columns` columns.
    pub(crate) fn split_columns(self, columns: usize) -> (Self, Self) {
        assert!(
            columns <= self.columns,
            "expected at most {} columns, got {columns}",
            self.columns
        );
        // Without rows there is no element to point at.
        let offset = if self.rows == 0 { 0 } else { columns };
        // SAFETY: its rows have that many elements, and no row of one half reaches into the other.
        let data = unsafe { self.data.add(offset) };
        (Self { columns, ..self }, Self { data, columns: self.columns - columns, ..self })
    }

    /// Cuts it into blocks of at most this size, row by row.
    pub(crate) fn blocks(self, (rows, columns): (usize, usize)) -> Vec<Block<'a>> {
        let mut blocks = Vec::new();
        for row in (0..self.rows).step_by(rows) {
            for column in (0..self.columns).step_by(columns) {
                let out = Self {
                    // SAFETY: element (row, column) is one of this matrix.
                    data: unsafe { self.data.add(row * self.row_stride + column) },
                    rows: rows.min(self.rows - row),
                    columns: columns.min(self.columns - column),
                    ..self
                };
                blocks.push(Block { row, column, out });
            }
        }
        blocks
    }

    /// The first `rows` rows.
    pub(crate) fn first_rows(self, rows: usize) -> Self {
        assert!(rows <= self.rows, "expected at most {} rows, got {rows}", self.rows);
        Self { rows, ..self }
    }

    /// Copies `row` into every row.
    fn fill(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.columns, "columns");
        for index in 0..self.rows {
            // SAFETY: row `index` has as many elements as `row`, which does not overlap a mutable borrow.
            unsafe {
                let start = self.data.add(index * self.row_stride);
                start.copy_from_nonoverlapping(row.as_ptr(), row.len());
            }
        }
    }
}

/// A block of a larger matrix, with its position there.
pub(crate) struct Block<'a> {
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) out: MatrixMut<'a>,
}

fn check_bounds(len: usize, rows: usize, columns: usize, row_stride: usize) {
    if rows > 0 && columns > 0 {
        let needed = (rows - 1).checked_mul(row_stride).and_then(|n| n.checked_add(columns));
        let needed = needed.expect("a matrix fits into memory");
        assert!(needed <= len, "expected {needed} elements, got {len}");
    }
}

/// `lhs · rhs`, with `bias` added to each row, contiguous.
pub(crate) fn matmul(lhs: Matrix, rhs: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, columns) = (lhs.rows, rhs.columns);
    let mut values = Vec::with_capacity(rows * columns);
    let data = values.as_mut_ptr();
    let whole = MatrixMut { data, rows, columns, row_stride: columns, borrowed: PhantomData };
    multiply_in_tiles(lhs, rhs, bias, whole);
    // SAFETY: this is the capacity, and the written tiles cover it.
    unsafe { values.set_len(rows * columns) };
    values
}

/// The same into `out`, overwriting it.
pub(crate) fn matmul_into(lhs: Matrix, rhs: Matrix, bias: Option<&[f32]>, out: &mut [f32]) {
    assert_eq!(out.len(), lhs.rows * rhs.columns, "numbers in the product");
    let whole = MatrixMut::strided(out, lhs.rows, rhs.columns, rhs.columns);
    multiply_in_tiles(lhs, rhs, bias, whole);
}

/// Computes a large product in tiles even on one thread, because `gemm`'s order of sums depends on the shape.
fn multiply_in_tiles(lhs: Matrix, rhs: Matrix, bias: Option<&[f32]>, out: MatrixMut) {
    let (rows, columns) = (lhs.rows, rhs.columns);
    let multiply_adds = rows * columns * lhs.columns;
    let tile = match parallel::large(multiply_adds) {
        true => (TILE.0, columns_of_tile(rows, columns)),
        false
            if tiles_change_no_bit(rows, lhs.columns, columns)
                && parallel::splits(multiply_adds) =>
        {
            (rows, (columns / SMALL_TILES).next_multiple_of(2 * REGISTER))
        }
        false => (rows.max(1), columns.max(1)),
    };
    parallel::for_each(multiply_adds, out.blocks(tile), |Block { row, column, mut out }| {
        let lhs = lhs.rows(row, out.rows);
        let rhs = rhs.columns(column, out.columns);
        match bias {
            Some(bias) => {
                out.fill(&bias[column..][..out.columns]);
                multiply(lhs, rhs, &mut out, Store::Add);
            }
            None => multiply(lhs, rhs, &mut out, Store::Overwrite),
        }
    });
}

/// Whether `gemm` gives the same bits for a small product in tiles and at once. Its summation changes for long sums and
/// small outputs.
fn tiles_change_no_bit(rows: usize, inner: usize, columns: usize) -> bool {
    (3..=512).contains(&inner)
        && rows >= 2 * REGISTER
        && columns >= SMALL_TILES * 4 * REGISTER
        && columns.is_multiple_of(SMALL_TILES * 2 * REGISTER)
}

/// The columns of a tile. With few rows, as in a weight's gradient, tiles have one width and an even number, so that
/// two threads finish together.
fn columns_of_tile(rows: usize, columns: usize) -> usize {
    if rows > TILE.0 {
        return TILE.1;
    }
    let tiles = columns.div_ceil(TILE.1).next_multiple_of(2);
    columns.div_ceil(tiles).next_multiple_of(REGISTER)
}

/// Whether the product replaces or adds to the output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Overwrite,
    Add,
}

/// `out = lhs · rhs`, or `out += lhs · rhs`, on this thread.
pub(crate) fn multiply(lhs: Matrix, rhs: Matrix, out: &mut MatrixMut, store: Store) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions");
    assert_eq!((out.rows, out.columns), (lhs.rows, rhs.columns), "rows and columns of the output");
    // SAFETY: `Matrix` and `MatrixMut` checked that their last elements are inside their slices, the shapes match
    // (asserted above), and a mutable borrow cannot overlap the shared operands.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.columns,
            lhs.columns,
            out.data,
            1,
            out.row_stride as isize,
            store == Store::Add,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::tests::assert_threads_do_not_show;

    fn data(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
    }

    fn naive(lhs: Matrix, rhs: Matrix) -> Vec<f32> {
        let at = |m: &Matrix, i: usize, j: usize| m.data[i * m.row_stride + j * m.column_stride];
        let mut out = Vec::new();
        for i in 0..lhs.rows {
            for j in 0..rhs.columns {
                out.push((0..lhs.columns).map(|k| at(&lhs, i, k) * at(&rhs, k, j)).sum());
            }
        }
        out
    }

    #[test]
    fn products_equal_three_loops() {
        let data = data(400);
        for (rows, inner, columns) in [(1, 1, 1), (3, 5, 7), (16, 8, 16), (17, 9, 2), (2, 0, 3)] {
            for stride in [inner, inner + 3] {
                let lhs = Matrix::strided(&data, rows, inner, stride);
                let rhs = Matrix::new(&data[100..], columns, inner).transposed();
                let want = naive(lhs, rhs);
                let mut got = vec![f32::NAN; rows * columns];
                matmul_into(lhs, rhs, None, &mut got);
                let shifted = matmul(lhs, rhs, Some(&data[..columns]));
                for (index, want) in want.iter().enumerate() {
                    assert!((got[index] - want).abs() < 1e-5, "{} {want}", got[index]);
                    let shift = data[index % columns];
                    assert!((shifted[index] - want - shift).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn only_the_block_is_written() {
        let data = data(60);
        let (lhs, rhs) = (Matrix::new(&data, 3, 4), Matrix::new(&data[20..], 4, 5));
        let product = naive(lhs, rhs);
        let mut out = vec![7.0; 5 * 9];
        for Block { row, column, mut out } in
            MatrixMut::strided(&mut out[2..], 3, 5, 9).blocks((2, 3))
        {
            let (rows, columns) = (out.rows, out.columns);
            multiply(lhs.rows(row, rows), rhs.columns(column, columns), &mut out, Store::Add);
        }
        for (index, got) in out.into_iter().enumerate() {
            let (row, column) = (index / 9, index % 9);
            let inside = row < 3 && (2..7).contains(&column);
            let want = if inside { 7.0 + product[row * 5 + column - 2] } else { 7.0 };
            assert!((got - want).abs() < 1e-5, "{index}: {got} {want}");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        // Several tiles in each direction; a sum longer than `gemm` does at once; small ones.
        for (rows, inner, columns) in [
            (1030, 64, 101),
            (67, 1576, 101),
            (64, 128, 384),
            (17, 512, 128),
            (67, 3, 2048),
            (300, 65, 128),
        ] {
            let data = data(inner * rows.max(columns) + 7);
            let lhs = Matrix::new(&data, rows, inner);
            let rhs = Matrix::new(&data[7..], columns, inner).transposed();
            assert_threads_do_not_show(|| matmul(lhs, rhs, Some(&data[..columns])));
        }
    }

    #[test]
    #[should_panic(expected = "expected 12 elements, got 11")]
    fn matrix_outside_its_slice_is_rejected() {
        Matrix::new(&[0.0; 11], 3, 4);
    }

    #[test]
    #[should_panic(expected = "expected rows below 3, got 4")]
    fn rows_outside_a_matrix_are_rejected() {
        Matrix::new(&[0.0; 12], 3, 4).rows(2, 2);
    }
}
