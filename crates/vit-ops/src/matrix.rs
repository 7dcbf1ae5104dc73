//! Matrices inside slices, and blocks of them.
#![expect(
    unsafe_code,
    reason = "threads write to disjoint blocks, and innermost loops check no bounds"
)]

use std::marker::PhantomData;
use std::slice;

use crate::lanes::{prefetch, transposed};
use crate::slices::LANES;

/// Distance of rows from which on the processor does not foresee the next one.
const FAR: usize = 192;

/// A matrix inside a slice: element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
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
        assert!(
            row <= self.rows && rows <= self.rows - row,
            "expected rows below {}, got {row} and {rows} more",
            self.rows
        );
        let start = (row * self.row_stride).min(self.data.len());
        Self { data: &self.data[start..], rows, ..self }
    }

    /// The elements from the first on and the distance between rows, if rows are contiguous. Otherwise columns are.
    pub(crate) fn contiguous_rows(&self) -> Option<(&'a [f32], usize)> {
        (self.column_stride == 1).then_some((self.data, self.row_stride))
    }

    /// Whether it has so many rows and columns, with contiguous rows.
    #[inline(always)]
    pub(crate) fn has_contiguous_rows(&self, rows: usize, columns: usize) -> bool {
        self.column_stride == 1 && (self.rows, self.columns) == (rows, columns)
    }

    /// Distance between columns.
    pub(crate) fn column_stride(&self) -> usize {
        self.column_stride
    }

    /// A contiguous row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        assert_eq!(self.column_stride, 1, "expected contiguous rows");
        assert!(row < self.rows, "expected a row below {}, got {row}", self.rows);
        &self.data[row * self.row_stride..][..self.columns]
    }

    /// Asks for a contiguous row that is read a little later, if there is one and rows are too far apart for the processor
    /// to foresee it.
    #[inline(always)]
    pub(crate) fn prefetch_row(&self, row: usize) {
        if self.row_stride >= FAR && row < self.rows {
            prefetch(self.row(row));
        }
    }

    /// Element (row, column).
    #[cfg(test)]
    pub(crate) fn at(&self, row: usize, column: usize) -> f32 {
        self.data[row * self.row_stride + column * self.column_stride]
    }

    /// Element (row, column).
    ///
    /// # Safety
    /// There is such an element.
    #[inline(always)]
    pub(crate) unsafe fn get_unchecked(&self, row: usize, column: usize) -> f32 {
        // SAFETY: `check_bounds` found this element inside the slice.
        unsafe { *self.data.get_unchecked(row * self.row_stride + column * self.column_stride) }
    }

    /// `N` elements of a contiguous row.
    ///
    /// # Safety
    /// Rows are contiguous, and there are such elements.
    #[inline(always)]
    pub(crate) unsafe fn part_unchecked<const N: usize>(
        &self,
        row: usize,
        column: usize,
    ) -> &'a [f32; N] {
        // SAFETY: `check_bounds` found these elements inside the slice.
        unsafe { &*self.data.as_ptr().add(row * self.row_stride + column).cast() }
    }

    /// The first elements of a contiguous column.
    ///
    /// # Safety
    /// Columns are contiguous, and there are such elements.
    #[inline(always)]
    pub(crate) unsafe fn column_unchecked<const N: usize>(&self, column: usize) -> &'a [f32; N] {
        // SAFETY: as the caller vouches.
        unsafe { self.transposed().part_unchecked(column, 0) }
    }

    /// A contiguous column.
    pub(crate) fn column(&self, column: usize) -> &'a [f32] {
        self.transposed().row(column)
    }

    /// Writes the transpose of at most [`LANES`] contiguous rows, with zeros for missing ones.
    #[inline(always)]
    pub(crate) fn transpose_into(&self, to: &mut [[f32; LANES]]) {
        // Two loops, of which the first checks no row.
        if self.rows == LANES {
            self.transpose_rows(LANES, to);
        } else {
            self.transpose_rows(self.rows, to);
        }
    }

    /// The same for the first `count` rows.
    #[inline(always)]
    fn transpose_rows(&self, count: usize, to: &mut [[f32; LANES]]) {
        assert!(self.has_contiguous_rows(self.rows, to.len()), "contiguous rows as long as `to`");
        assert!(count <= self.rows.min(LANES), "so many rows");
        let (quads, rest) = to.as_chunks_mut::<4>();
        let done = 4 * quads.len();
        for (index, to) in quads.iter_mut().enumerate() {
            for first in (0..LANES).step_by(4) {
                let mut square = [[0.0; 4]; 4];
                for (row, part) in (first..count).zip(&mut square) {
                    // SAFETY: rows are contiguous, so many, and as long as `to`, as just asserted.
                    *part = *unsafe { self.part_unchecked(row, 4 * index) };
                }
                for (row, values) in to.iter_mut().zip(transposed(square)) {
                    row[first..][..4].copy_from_slice(&values);
                }
            }
        }
        for (row, column) in rest.iter_mut().zip(done..) {
            *row = [0.0; LANES];
            for (index, value) in row.iter_mut().enumerate().take(count) {
                // SAFETY: as above.
                *value = unsafe { self.get_unchecked(index, column) };
            }
        }
    }

    /// `columns` columns from `column` on.
    pub(crate) fn columns(self, column: usize, columns: usize) -> Self {
        self.transposed().rows(column, columns).transposed()
    }
}

/// A matrix to write to, which may be a block of a larger one. Its rows are `row_stride` apart.
pub(crate) struct MatrixMut<'a> {
    data: *mut f32,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
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

    /// `N` elements of a row.
    ///
    /// # Safety
    /// There are such elements.
    #[inline(always)]
    pub(crate) unsafe fn chunk_unchecked<const N: usize>(
        &mut self,
        row: usize,
        column: usize,
    ) -> &mut [f32; N] {
        // SAFETY: the elements are inside the borrowed slice, and this borrow is the only one of them.
        unsafe { &mut *self.data.add(row * self.row_stride + column).cast() }
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

    /// Row `row`.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "expected a row below {}, got {row}", self.rows);
        if self.columns == 0 {
            return &mut [];
        }
        // SAFETY: the row's elements are inside the borrowed slice, and this borrow is the only one of them.
        unsafe { slice::from_raw_parts_mut(self.data.add(row * self.row_stride), self.columns) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "expected 12 elements, got 11")]
    fn matrix_outside_its_slice_is_rejected() {
        Matrix::new(&[0.0; 11], 3, 4);
    }

    #[test]
    #[should_panic(expected = "expected rows below 3, got 2 and 2 more")]
    fn rows_outside_a_matrix_are_rejected() {
        Matrix::new(&[0.0; 12], 3, 4).rows(2, 2);
    }
}
