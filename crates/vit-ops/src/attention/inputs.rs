//! The memory layout of a batch's queries, keys, values and gradients.

use super::sample::{Rows, SampleLayout, SampleShape, Samples};
use crate::matrix::MatrixMut;

/// Queries, keys or values.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Queries = 0,
    Keys = 1,
    Values = 2,
}

/// The queries, keys and values of a batch.
#[derive(Clone, Copy)]
pub(crate) enum Inputs<'a> {
    /// (batch, tokens, 3 * dim): a token's query, key and value in sequence.
    Packed(&'a [f32]),
    /// (batch, queries, dim), and (batch, tokens, 2 * dim): a token's key and value in sequence.
    Apart { q: &'a [f32], kv: &'a [f32] },
}

impl<'a> Inputs<'a> {
    /// One sample's inputs.
    pub(super) fn sample(self, layout: SampleLayout) -> Sample<'a> {
        let SampleLayout { shape, row, out } = layout;
        let dim = shape.dim();
        let rows = |data: &'a [f32], stride| Rows { data, stride };
        Sample(match self {
            Self::Packed(qkv) => {
                let packed = &qkv[row * 3 * dim..][..shape.packed()];
                [0, 1, 2].map(|part| rows(&packed[part * dim..], 3 * dim))
            }
            Self::Apart { q, kv } => {
                let q = &q[out * dim..][..shape.output()];
                let kv = &kv[row * 2 * dim..][..shape.keys_and_values()];
                [rows(q, dim), rows(kv, 2 * dim), rows(&kv[dim..], 2 * dim)]
            }
        })
    }
}

/// One sample's queries, keys and values, for all heads.
#[derive(Clone, Copy)]
pub(super) struct Sample<'a>([Rows<'a>; 3]);

impl<'a> Sample<'a> {
    /// A head's rows.
    #[inline(always)]
    pub(super) fn rows(self, shape: SampleShape, part: Part, head: usize) -> Rows<'a> {
        let Rows { data, stride } = self.0[part as usize];
        Rows { data: &data[head * shape.head_dim..], stride }
    }
}

/// The destination of a batch's gradients.
pub(crate) enum Gradients<'a> {
    /// Like [`Inputs::Packed`]. Queries of tokens without an output are not written and must be zero.
    Packed(&'a mut [f32]),
    /// Like [`Inputs::Apart`].
    Apart { q: &'a mut [f32], kv: &'a mut [f32] },
}

impl<'a> Gradients<'a> {
    /// Each sample's gradients.
    pub(super) fn samples(self, samples: &Samples) -> Vec<SampleGradients<'a>> {
        match self {
            Self::Packed(qkv) => {
                let parts = samples.cut(qkv, SampleShape::packed);
                parts.into_iter().map(SampleGradients::Packed).collect()
            }
            Self::Apart { q, kv } => {
                let kv = samples.cut(kv, SampleShape::keys_and_values);
                let each = samples.cut(q, SampleShape::output).into_iter().zip(kv);
                each.map(|(q, kv)| SampleGradients::Apart { q, kv }).collect()
            }
        }
    }
}

/// One sample's gradients.
pub(super) enum SampleGradients<'a> {
    Packed(&'a mut [f32]),
    Apart { q: &'a mut [f32], kv: &'a mut [f32] },
}

impl<'a> SampleGradients<'a> {
    /// The gradients of the rows of `heads` heads, from `first` on.
    #[inline(always)]
    pub(super) fn rows(
        &mut self,
        shape: SampleShape,
        part: Part,
        first: usize,
        heads: usize,
    ) -> MatrixMut<'_> {
        let (dim, width) = (shape.dim(), heads * shape.head_dim);
        let start = first * shape.head_dim;
        let count = match part {
            Part::Queries => shape.queries,
            Part::Keys | Part::Values => shape.tokens,
        };
        let (data, stride) = match (self, part) {
            (Self::Packed(qkv), _) => (&mut qkv[part as usize * dim + start..], 3 * dim),
            (Self::Apart { q, .. }, Part::Queries) => (&mut q[start..], dim),
            (Self::Apart { kv, .. }, _) => (&mut kv[(part as usize - 1) * dim + start..], 2 * dim),
        };
        MatrixMut::strided(data, count, width, stride)
    }

    /// Queries, keys and values as matrices over all heads.
    pub(super) fn matrices(self, shape: SampleShape) -> [MatrixMut<'a>; 3] {
        let (dim, tokens) = (shape.dim(), shape.tokens);
        let (q, kv) = match self {
            Self::Packed(qkv) => {
                MatrixMut::strided(qkv, tokens, 3 * dim, 3 * dim).split_columns(dim)
            }
            Self::Apart { q, kv } => {
                let q = MatrixMut::strided(q, shape.queries, dim, dim);
                (q, MatrixMut::strided(kv, tokens, 2 * dim, 2 * dim))
            }
        };
        let (k, v) = kv.split_columns(dim);
        [q.first_rows(shape.queries), k, v]
    }
}
