//! Where the queries, keys and values of a batch lie, and where their gradients go.

use super::sample::{Rows, RowsMut, SampleShape};
use crate::matmul::MatrixMut;

/// Which of the three.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Queries = 0,
    Keys = 1,
    Values = 2,
}

/// The queries, keys and values of a batch.
#[derive(Clone, Copy)]
pub(super) enum Inputs<'a> {
    /// (batch, tokens, 3 * dim): those of a token one after the other.
    Packed(&'a [f32]),
    /// (batch, queries, dim), and (batch, tokens, 2 * dim): the keys and values of a token one after the other.
    Apart { q: &'a [f32], kv: &'a [f32] },
}

impl<'a> Inputs<'a> {
    /// Those of one sample.
    pub(super) fn sample(self, shape: SampleShape, index: usize) -> Sample<'a> {
        let dim = shape.dim();
        let rows = |data: &'a [f32], stride| Rows { data, stride };
        Sample(match self {
            Self::Packed(qkv) => {
                let packed = &qkv[index * shape.packed()..][..shape.packed()];
                [0, 1, 2].map(|part| rows(&packed[part * dim..], 3 * dim))
            }
            Self::Apart { q, kv } => {
                let q = &q[index * shape.output()..][..shape.output()];
                let kv = &kv[index * shape.keys_and_values()..][..shape.keys_and_values()];
                [rows(q, dim), rows(kv, 2 * dim), rows(&kv[dim..], 2 * dim)]
            }
        })
    }
}

/// The queries, keys and values of one sample, those of all heads.
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

/// The gradients of a batch, zeros at first.
pub(super) enum Gradients {
    /// As [`Inputs::Packed`].
    Packed(Vec<f32>),
    /// As [`Inputs::Apart`].
    Apart { q: Vec<f32>, kv: Vec<f32> },
}

impl Gradients {
    pub(super) fn of(inputs: Inputs) -> Self {
        let zeros = |like: &[f32]| vec![0.0; like.len()];
        match inputs {
            Inputs::Packed(qkv) => Self::Packed(zeros(qkv)),
            Inputs::Apart { q, kv } => Self::Apart { q: zeros(q), kv: zeros(kv) },
        }
    }

    /// Those of each sample.
    pub(super) fn samples(&mut self, shape: SampleShape) -> Vec<SampleGradients<'_>> {
        match self {
            Self::Packed(qkv) => {
                qkv.chunks_exact_mut(shape.packed()).map(SampleGradients::Packed).collect()
            }
            Self::Apart { q, kv } => {
                let kv = kv.chunks_exact_mut(shape.keys_and_values());
                let each = q.chunks_exact_mut(shape.output()).zip(kv);
                each.map(|(q, kv)| SampleGradients::Apart { q, kv }).collect()
            }
        }
    }
}

/// The gradients of one sample.
pub(super) enum SampleGradients<'a> {
    Packed(&'a mut [f32]),
    Apart { q: &'a mut [f32], kv: &'a mut [f32] },
}

impl<'a> SampleGradients<'a> {
    /// Of a head's rows.
    #[inline(always)]
    pub(super) fn rows(&mut self, shape: SampleShape, part: Part, head: usize) -> RowsMut<'_> {
        let (dim, width) = (shape.dim(), shape.head_dim);
        let start = head * width;
        match (self, part) {
            (Self::Packed(qkv), _) => {
                RowsMut { data: &mut qkv[part as usize * dim + start..], stride: 3 * dim, width }
            }
            (Self::Apart { q, .. }, Part::Queries) => {
                RowsMut { data: &mut q[start..], stride: dim, width }
            }
            (Self::Apart { kv, .. }, _) => {
                let data = &mut kv[(part as usize - 1) * dim + start..];
                RowsMut { data, stride: 2 * dim, width }
            }
        }
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
