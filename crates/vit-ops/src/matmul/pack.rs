//! Operands in the order in which a kernel reads them, as in BLIS (Van Zee and van de Geijn, 2015).

use super::kernel::{DEPTH, ROWS};
use crate::buffer::Buffer;
use crate::matrix::Matrix;
use crate::simd;
use crate::slices::LANES;

/// Rows that are fetched into the cache before they are copied.
const AHEAD: usize = 8;

/// Rows of the left operand from which packing the right one pays, even if its rows are contiguous.
const WORTH_PACKING: usize = 128;

/// Distance between columns up to which a block of the left operand is read in place: it fits the second-level cache.
const NEAR: usize = 128;

/// The right operand in panels of [`LANES`] columns. Zeros fill the last one.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    data: &'a [f32],
    /// Distance between panels.
    stride: usize,
    /// Distance between rows of a panel.
    row_stride: usize,
    /// Rows of a panel.
    pub(super) rows: usize,
}

impl<'a> Panels<'a> {
    /// Numbers in the packed panels of `rhs`.
    pub(super) fn len(rhs: Matrix) -> usize {
        rhs.rows * rhs.columns.next_multiple_of(LANES)
    }

    /// `rhs` in place, if reading it for so many rows is as fast as packing it.
    pub(super) fn in_place(rhs: Matrix<'a>, rows: usize) -> Option<Self> {
        let suits = rows < WORTH_PACKING && rhs.columns.is_multiple_of(LANES);
        let (data, row_stride) = rhs.contiguous_rows().filter(|_| suits)?;
        Some(Self { data, stride: LANES, row_stride, rows: rhs.rows })
    }

    /// Each panel with its columns, to be [packed](pack).
    pub(super) fn pieces<'b>(
        rhs: Matrix<'b>,
        packed: &'b mut Buffer,
    ) -> impl Iterator<Item = (Matrix<'b>, &'b mut [[f32; LANES]])> + Send {
        let panels = packed.as_chunks_mut::<LANES>().0.chunks_exact_mut(rhs.rows.max(1));
        panels.enumerate().map(move |(index, panel)| {
            let first = index * LANES;
            (rhs.columns(first, LANES.min(rhs.columns - first)), panel)
        })
    }

    /// Packed panels of so many rows.
    pub(super) fn packed(packed: &'a Buffer, rows: usize) -> Self {
        Self { data: packed, stride: rows * LANES, row_stride: LANES, rows }
    }

    /// The panels from `column` on, which is a multiple of [`LANES`].
    pub(super) fn at_column(self, column: usize) -> Self {
        Self { data: &self.data[column / LANES * self.stride..], ..self }
    }

    /// `depth` rows of panel `index` from `first` on.
    #[inline(always)]
    pub(super) fn panel(&self, index: usize, first: usize, depth: usize) -> Matrix<'a> {
        // Without rows there may be no data.
        let start = (index * self.stride + first * self.row_stride).min(self.data.len());
        Matrix::strided(&self.data[start..], depth, LANES, self.row_stride)
    }
}

/// Copies up to [`LANES`] columns into a panel. Missing columns become zeros.
pub(super) fn pack(columns: Matrix, panel: &mut [[f32; LANES]]) {
    let count = columns.columns;
    if columns.contiguous_rows().is_some() {
        for (index, to) in panel.iter_mut().enumerate() {
            columns.prefetch_row(index + AHEAD);
            to[..count].copy_from_slice(columns.row(index));
            to[count..].fill(0.0);
        }
    } else if count == LANES {
        simd::dispatch(
            #[inline(always)]
            || columns.transposed().transpose_into(panel),
        );
    } else {
        panel.fill([0.0; LANES]);
        for index in 0..count {
            let column = columns.column(index);
            panel.iter_mut().zip(column).for_each(|(row, value)| row[index] = *value);
        }
    }
}

/// A block of the left operand, cut into tiles of `R` rows: in place, or packed tile by tile and column by column.
pub(super) struct Tiles<'a> {
    matrix: Matrix<'a>,
    /// Rows of a tile, and the packed tiles.
    packed: Option<(usize, &'a [f32])>,
}

impl<'a> Tiles<'a> {
    /// Numbers in a packed block; 0 if it is read in place.
    pub(super) fn packed_len(lhs: Matrix) -> usize {
        let is_in_place = lhs.contiguous_rows().is_some() || lhs.column_stride() <= NEAR;
        if is_in_place { 0 } else { ROWS * DEPTH }
    }

    /// Packs a block if `scratch` is not empty.
    #[inline(always)]
    pub(super) fn new<const R: usize>(matrix: Matrix<'a>, scratch: &'a mut [f32]) -> Self {
        if scratch.is_empty() {
            return Self { matrix, packed: None };
        }
        for index in 0..matrix.columns {
            matrix.transposed().prefetch_row(index + AHEAD);
            let (tiles, rest) = matrix.column(index).as_chunks::<R>();
            let mut places = scratch[index * R..].chunks_mut(R * DEPTH);
            for (tile, to) in tiles.iter().zip(places.by_ref()) {
                to[..R].copy_from_slice(tile);
            }
            if let Some(to) = places.next().filter(|_| !rest.is_empty()) {
                to[..R].fill(0.0);
                to[..rest.len()].copy_from_slice(rest);
            }
        }
        Self { matrix, packed: Some((R, scratch)) }
    }

    pub(super) fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// Whether it can be cut into tiles of `R` rows.
    #[inline(always)]
    pub(super) fn has<const R: usize>(&self) -> bool {
        self.packed.map_or(self.matrix.rows >= R, |(rows, _)| rows == R)
    }

    /// The tile with row `row`, a multiple of `R`, and its first row. The last tile of a block in place has rows of the
    /// one above; packed, it has zeros.
    #[inline(always)]
    pub(super) fn tile<const R: usize>(&self, row: usize) -> (usize, Matrix<'a>) {
        match self.packed {
            Some((rows, packed)) => {
                assert_eq!(rows, R, "rows of a packed tile");
                let columns = Matrix::strided(&packed[row * DEPTH..], self.matrix.columns, R, R);
                (row, columns.transposed())
            }
            None => {
                let first = row.min(self.matrix.rows - R);
                (first, self.matrix.rows(first, R))
            }
        }
    }
}
