//! The product of rows and packed columns, tile by tile in registers.
#![expect(unsafe_code, reason = "the innermost loop checks no bounds")]

use std::ops::Range;

use super::pack::{Panels, Tiles};
use crate::lanes::Lanes;
use crate::matrix::{Matrix, MatrixMut};
use crate::simd::{self, Kernel};
use crate::slices::LANES;

/// Products summed in registers. As many rows of a panel fit the first-level cache.
pub(crate) const DEPTH: usize = 256;

/// Rows for which panels stay in the first-level cache; a multiple of the rows in registers.
pub(super) const ROWS: usize = 48;

/// Sums of pieces that are added along a binary tree before they reach the output.
const BRANCHES: usize = 4;

/// How many pieces of so many products have their sums added along a binary tree: a power of two, at most [`BRANCHES`],
/// and together at most [`DEPTH`] products.
pub(super) fn branches(piece: usize) -> usize {
    1 << (DEPTH / piece).clamp(1, BRANCHES).ilog2()
}

/// Columns of a tile that are read at once if its rows are contiguous, which saves computing addresses.
const UNROLL: usize = 4;

/// `out = lhs · rhs`, with `bias` added to each row. Sums `piece` products in order, at most [`DEPTH`], and
/// [`branches`] of such sums along a binary tree. `scratch` has [`Tiles::packed_len`] numbers.
pub(super) fn product(
    (lhs, piece): (Matrix, usize),
    rhs: Panels,
    bias: Option<&[f32]>,
    scratch: &mut [f32],
    out: &mut MatrixMut,
) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions");
    assert_eq!(lhs.rows, out.rows, "rows of the output");
    assert!(bias.is_none_or(|bias| bias.len() == out.columns), "a bias for each column");
    assert!((1..=DEPTH).contains(&piece), "products in a piece");
    if branches(piece) > 1 && piece < lhs.columns {
        simd::run_fused(Product::<true> { lhs, piece, rhs, bias, scratch, out });
    } else {
        simd::run_fused(Product::<false> { lhs, piece, rhs, bias, scratch, out });
    }
}

/// `TREE` if there are sums of pieces to be added along a tree, which costs registers and code in each tile.
struct Product<'a, 'b, 'c, const TREE: bool> {
    lhs: Matrix<'a>,
    piece: usize,
    rhs: Panels<'a>,
    bias: Option<&'a [f32]>,
    scratch: &'b mut [f32],
    out: &'b mut MatrixMut<'c>,
}

impl<const TREE: bool> Kernel for Product<'_, '_, '_, TREE> {
    type Output = ();

    /// The sums of a tile take half of AVX-512's 32 registers, and three quarters of AVX2's 16.
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        if L::IS_ONE_REGISTER {
            self.run_in_tiles::<L, 8, 2>(lanes);
        } else {
            self.run_in_tiles::<L, 6, 1>(lanes);
        }
    }
}

impl<const TREE: bool> Product<'_, '_, '_, TREE> {
    /// With tiles of `R` rows and `P` panels.
    #[inline(always)]
    fn run_in_tiles<L: Lanes, const R: usize, const P: usize>(self, lanes: L) {
        const { assert!(ROWS.is_multiple_of(R)) };
        let Self { lhs, piece, rhs, bias, scratch, out } = self;
        let most = piece * branches(piece);
        // A sum of nothing is zero.
        for first in (0..lhs.columns.max(1)).step_by(most) {
            let depth = most.min(lhs.columns - first);
            for top in (0..lhs.rows).step_by(ROWS) {
                let block = lhs.rows(top, ROWS.min(lhs.rows - top)).columns(first, depth);
                let tiles = Tiles::new::<R>(block, scratch);
                let base = match bias {
                    _ if first > 0 => Base::Output,
                    Some(bias) => Base::Bias(bias),
                    None => Base::Zero,
                };
                let mut to = Target::<TREE> { out, top, base, piece };
                let panels = to.out.columns.div_ceil(LANES);
                let whole = panels - panels % P;
                for index in (0..whole).step_by(P) {
                    let mut panels = [rhs.panel(index, first, depth); P];
                    for (offset, panel) in panels.iter_mut().enumerate().skip(1) {
                        *panel = rhs.panel(index + offset, first, depth);
                    }
                    to.each_tile::<L, R, P>(lanes, &tiles, panels, index * LANES);
                }
                for index in whole..panels {
                    let panels = [rhs.panel(index, first, depth)];
                    to.each_tile::<L, R, 1>(lanes, &tiles, panels, index * LANES);
                }
            }
        }
    }
}

/// The initial values of a block of sums.
#[derive(Clone, Copy)]
enum Base<'a> {
    Zero,
    Bias(&'a [f32]),
    Output,
}

/// Where sums go: rows from `top` on.
struct Target<'a, 'b, 'c, const TREE: bool> {
    out: &'b mut MatrixMut<'c>,
    top: usize,
    base: Base<'a>,
    /// Products that are summed in order.
    piece: usize,
}

impl<const TREE: bool> Target<'_, '_, '_, TREE> {
    /// Computes columns from `column` on: `R` rows at a time if there are as many, and up to 4 at the end at once.
    #[inline(always)]
    fn each_tile<L: Lanes, const R: usize, const P: usize>(
        &mut self,
        lanes: L,
        tiles: &Tiles,
        panels: [Matrix; P],
        column: usize,
    ) {
        let rows = tiles.rows();
        let rest = rows % R;
        if tiles.has::<R>() && tiles.has::<4>() && (1..=4).contains(&rest) {
            self.each_tile_of::<L, R, P>(lanes, tiles, 0..rows - rest, panels, column);
            self.each_tile_of::<L, 4, P>(lanes, tiles, rows - rest..rows, panels, column);
        } else if tiles.has::<R>() {
            self.each_tile_of::<L, R, P>(lanes, tiles, 0..rows, panels, column);
        } else if tiles.has::<4>() {
            self.each_tile_of::<L, 4, P>(lanes, tiles, 0..rows, panels, column);
        } else {
            self.each_tile_of::<L, 1, P>(lanes, tiles, 0..rows, panels, column);
        }
    }

    #[inline(always)]
    fn each_tile_of<L: Lanes, const R: usize, const P: usize>(
        &mut self,
        lanes: L,
        tiles: &Tiles,
        rows: Range<usize>,
        panels: [Matrix; P],
        column: usize,
    ) {
        assert!(self.top + tiles.rows() <= self.out.rows, "rows of the output");
        let is_whole = column + P * LANES <= self.out.columns;
        let mut pairs = [[[lanes.splat(0.0); P]; R]; BRANCHES / 2];
        for row in rows.step_by(R) {
            let (first, tile) = tiles.tile::<R>(row);
            let sums = if TREE {
                tree::<L, R, P>(lanes, tile, &panels, self.piece, &mut pairs)
            } else {
                sums::<L, R, P>(lanes, tile, &panels, 0..tile.columns)
            };
            if is_whole && row + R <= tiles.rows() {
                for (offset, sums) in sums.into_iter().enumerate() {
                    for (index, sum) in sums.into_iter().enumerate() {
                        let (row, column) = (self.top + row + offset, column + index * LANES);
                        // SAFETY: the output has these rows and columns, as just asserted and compared.
                        let out = unsafe { self.out.chunk_unchecked(row, column) };
                        let sum = match self.base {
                            Base::Zero => sum,
                            Base::Bias(bias) => {
                                lanes.add(lanes.load(sixteen(&bias[column..])), sum)
                            }
                            Base::Output => lanes.add(lanes.load(out), sum),
                        };
                        lanes.store(sum, out);
                    }
                }
            } else {
                for (offset, sums) in sums.into_iter().enumerate() {
                    if (row..tiles.rows()).contains(&(first + offset)) {
                        self.store_part(lanes, first + offset, column, sums);
                    }
                }
            }
        }
    }

    /// Stores a row of sums up to the output's last column.
    #[inline(always)]
    fn store_part<L: Lanes, const P: usize>(
        &mut self,
        lanes: L,
        row: usize,
        column: usize,
        sums: [L::Vector; P],
    ) {
        let mut values = [[0.0; LANES]; P];
        for (values, sum) in values.iter_mut().zip(sums) {
            lanes.store(sum, values);
        }
        let out = &mut self.out.row(self.top + row)[column..];
        for (index, (out, value)) in out.iter_mut().zip(values.as_flattened()).enumerate() {
            *out = match self.base {
                Base::Zero => *value,
                Base::Bias(bias) => bias[column + index] + value,
                Base::Output => *out + value,
            };
        }
    }
}

#[inline(always)]
fn sixteen(values: &[f32]) -> &[f32; LANES] {
    values.first_chunk().expect("sixteen values")
}

/// The products of each row with each column of the panels, summed in pieces, whose sums are added along a binary tree.
/// `pairs` holds those that wait for others.
#[inline(always)]
fn tree<L: Lanes, const R: usize, const P: usize>(
    lanes: L,
    tile: Matrix,
    panels: &[Matrix; P],
    piece: usize,
    pairs: &mut [[[L::Vector; P]; R]; BRANCHES / 2],
) -> [[L::Vector; P]; R] {
    let depth = tile.columns;
    let mut first = 0;
    let mut index = 0;
    loop {
        let end = depth.min(first + piece);
        let mut sums = sums::<L, R, P>(lanes, tile, panels, first..end);
        if index % 2 == 1 {
            add_sums(lanes, &pairs[index / 2], &mut sums);
        }
        if end == depth {
            if index > 1 {
                add_sums(lanes, &pairs[0], &mut sums);
            }
            return sums;
        }
        pairs[index / 2] = sums;
        (first, index) = (end, index + 1);
    }
}

/// `right = left + right`
#[inline(always)]
fn add_sums<L: Lanes, const R: usize, const P: usize>(
    lanes: L,
    left: &[[L::Vector; P]; R],
    right: &mut [[L::Vector; P]; R],
) {
    for (left, right) in left.iter().zip(right) {
        for (left, right) in left.iter().zip(right) {
            *right = lanes.add(*left, *right);
        }
    }
}

/// The sums of these products of each row with each column of the panels.
#[inline(always)]
fn sums<L: Lanes, const R: usize, const P: usize>(
    lanes: L,
    tile: Matrix,
    panels: &[Matrix; P],
    Range { start, end }: Range<usize>,
) -> [[L::Vector; P]; R] {
    let depth = tile.columns;
    assert!(tile.rows == R && end <= depth, "products of the tile");
    assert!(panels.iter().all(|panel| panel.has_contiguous_rows(depth, LANES)));
    let mut sums = [[lanes.splat(0.0); P]; R];
    if tile.contiguous_rows().is_none() {
        for index in start..end {
            // SAFETY: columns are contiguous, and tile and panels have this one and this row, as asserted above.
            unsafe { add(lanes, tile.column_unchecked(index), panels, index, &mut sums) };
        }
        return sums;
    }
    let whole = end - (end - start) % UNROLL;
    for first in (start..whole).step_by(UNROLL) {
        let mut rows = [&[0.0; UNROLL]; R];
        for (row, values) in rows.iter_mut().enumerate() {
            // SAFETY: rows are contiguous, and the tile has this part of this row.
            *values = unsafe { tile.part_unchecked(row, first) };
        }
        for offset in 0..UNROLL {
            let column = rows.map(|row| row[offset]);
            // SAFETY: panels have this row, as asserted above.
            unsafe { add(lanes, &column, panels, first + offset, &mut sums) };
        }
    }
    for index in whole..end {
        // SAFETY: the tile has this column, and panels have this row.
        unsafe {
            let column = std::array::from_fn(|row| tile.get_unchecked(row, index));
            add(lanes, &column, panels, index, &mut sums);
        }
    }
    sums
}

/// Adds the products of a column with a row of each panel.
///
/// # Safety
/// The panels have this row.
#[inline(always)]
unsafe fn add<L: Lanes, const R: usize, const P: usize>(
    lanes: L,
    column: &[f32; R],
    panels: &[Matrix; P],
    index: usize,
    sums: &mut [[L::Vector; P]; R],
) {
    let mut row = [lanes.splat(0.0); P];
    for (row, panel) in row.iter_mut().zip(panels) {
        // SAFETY: the caller vouches for the row; panels have contiguous rows of `LANES` numbers.
        *row = lanes.load(unsafe { panel.part_unchecked(index, 0) });
    }
    for (sums, value) in sums.iter_mut().zip(column) {
        let value = lanes.splat(*value);
        for (sum, row) in sums.iter_mut().zip(&row) {
            *sum = lanes.mul_add(value, *row, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::pack;
    use super::*;
    use crate::buffer::Buffer;
    use crate::lanes::Portable;

    /// Runs `run` on products of these sizes with operands in every layout, summed in pieces, and returns the outputs.
    fn outputs<const TREE: bool>(
        (rows, inner, columns): (usize, usize, usize),
        piece: usize,
        run: impl Fn(Product<TREE>),
    ) -> Vec<f32> {
        let numbers = |len: usize| (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0);
        let [left, right] =
            [rows + 150, columns].map(|side| numbers(side * inner).collect::<Vec<_>>());
        let bias: Vec<f32> = numbers(columns).collect();
        let mut outputs = Vec::new();
        for lhs in [
            Matrix::new(&left, rows, inner),
            Matrix::new(&left, inner, rows).transposed(),
            // Far apart, so it is packed.
            Matrix::strided(&left, inner, rows, rows + 150).transposed(),
        ] {
            for rhs in [
                Matrix::new(&right, inner, columns),
                Matrix::new(&right, columns, inner).transposed(),
            ] {
                let mut packed = Buffer::dirty(Panels::len(rhs));
                Panels::pieces(rhs, &mut packed).for_each(|(columns, panel)| pack(columns, panel));
                let in_place = Panels::in_place(rhs, rows);
                for panels in in_place.into_iter().chain([Panels::packed(&packed, inner)]) {
                    let mut scratch = vec![f32::NAN; Tiles::packed_len(lhs)];
                    let mut out = vec![f32::NAN; rows * columns];
                    run(Product {
                        lhs,
                        piece,
                        rhs: panels,
                        bias: Some(&bias),
                        scratch: &mut scratch,
                        out: &mut MatrixMut::strided(&mut out, rows, columns, columns),
                    });
                    outputs.extend(out);
                }
            }
        }
        outputs
    }

    fn assert_tiles_do_not_show<const TREE: bool>(size: (usize, usize, usize), piece: usize) {
        let run = |run: fn(Product<TREE>)| outputs(size, piece, run);
        let one = run(|product| product.run_in_tiles::<Portable, 1, 1>(Portable));
        let six = run(|product| product.run_in_tiles::<Portable, 6, 1>(Portable));
        let wide = run(|product| product.run_in_tiles::<Portable, 8, 2>(Portable));
        assert!(one == six && one == wide, "{size:?} in pieces of {piece}");
        simd::assert_paths_agree(size, |arch| {
            outputs::<TREE>(size, piece, |product| simd::run_on(arch, product))
        });
    }

    #[test]
    fn tiles_and_instruction_sets_do_not_change_a_bit() {
        for size in [(1, 3, 1), (13, 40, 48), (60, 600, 33), (8, 16, 32), (5, 0, 32), (50, 300, 10)]
        {
            assert_tiles_do_not_show::<false>(size, DEPTH);
        }
        for (size, piece) in [((13, 40, 48), 10), ((60, 600, 33), 50), ((8, 16, 32), 6)] {
            assert_tiles_do_not_show::<true>(size, piece);
        }
    }
}
