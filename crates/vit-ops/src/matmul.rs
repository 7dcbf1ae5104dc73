//! Matrix products on slices, on one thread, through the `gemm` crate.
#![expect(unsafe_code, reason = "gemm takes pointers and strides; the bounds are checked here")]

/// A matrix inside a slice: element (i, j) lies at `i * row_stride + j * column_stride`.
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

    /// Rows of `columns` elements, each beginning `row_stride` after the one before.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            let needed = (rows - 1) * row_stride + columns;
            assert!(needed <= data.len(), "expected {needed} elements, got {}", data.len());
        }
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = lhs · rhs`, contiguous.
pub(crate) fn matmul(lhs: Matrix, rhs: Matrix) -> Vec<f32> {
    let mut out = vec![0.0; lhs.rows * rhs.columns];
    multiply(lhs, rhs, &mut out, Into::Overwrite);
    out
}

/// `out += lhs · rhs`, contiguous.
pub(crate) fn matmul_add(lhs: Matrix, rhs: Matrix, out: &mut [f32]) {
    multiply(lhs, rhs, out, Into::Add);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Into {
    Overwrite,
    Add,
}

fn multiply(lhs: Matrix, rhs: Matrix, out: &mut [f32], into: Into) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions");
    assert_eq!(out.len(), lhs.rows * rhs.columns, "output elements");
    // SAFETY: `Matrix` checked that its last element lies inside its slice, `out` holds rows * columns
    // elements (asserted above) at strides (columns, 1), and `out` cannot alias the shared operands.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.columns,
            lhs.columns,
            out.as_mut_ptr(),
            1,
            rhs.columns as isize,
            into == Into::Add,
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
    fn products_are_those_of_three_loops() {
        let data: Vec<f32> = (0..400).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        for (rows, inner, columns) in [(1, 1, 1), (3, 5, 7), (16, 8, 16), (17, 9, 2), (2, 0, 3)] {
            for stride in [inner, inner + 3] {
                let lhs = Matrix::strided(&data, rows, inner, stride);
                let rhs = Matrix::new(&data[100..], columns, inner).transposed();
                let (got, want) = (matmul(lhs, rhs), naive(lhs, rhs));
                let mut twice = got.clone();
                matmul_add(lhs, rhs, &mut twice);
                for ((got, want), twice) in got.iter().zip(&want).zip(&twice) {
                    assert!((got - want).abs() < 1e-5, "{got} {want}");
                    assert!((twice - 2.0 * want).abs() < 2e-5);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "expected 12 elements, got 11")]
    fn a_matrix_outside_its_slice_is_refused() {
        Matrix::new(&[0.0; 11], 3, 4);
    }
}
