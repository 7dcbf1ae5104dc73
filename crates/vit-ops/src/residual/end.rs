//! The end of a branch: dropout, layer scale, drop path, and the residual sum.

use candle_core::Result;

use super::BranchEnd;
use super::rows::Rows;
use super::stack::{Gradients, List};
use crate::buffer::Buffer;
use crate::dropout::DropoutSource;
use crate::many::OpParameters;
use crate::{parallel, scale_features, simd, slices};

/// Cost of a number, and of a drawn number, in multiply-adds, for [`parallel`].
pub(super) const COST: usize = 8;
const DRAW_COST: usize = 16;

/// Numbers per piece.
pub(super) const CHUNK: usize = 16_384;

pub(super) struct End {
    dropout: Option<DropoutSource>,
    scale: Option<usize>,
    drop_path: Option<DropoutSource>,
    dim: usize,
}

/// Data for the backward pass.
#[derive(Default)]
pub(super) struct Saved {
    /// Dropout's mask.
    mask: Option<Buffer>,
    /// The input of the layer scale.
    scaled: Option<Buffer>,
    /// Drop path's factor of each sample.
    of_samples: Option<Vec<f32>>,
}

impl End {
    pub(super) fn new(end: &BranchEnd, list: &mut List) -> Result<Self> {
        let drops = |source: Option<DropoutSource>| source.filter(|source| !source.rate.is_zero());
        if let Some(gamma) = end.scale {
            list.check_features("layer scale", gamma)?;
        }
        let scale = end.scale.map(|gamma| list.add(gamma));
        let (dropout, drop_path) = (drops(end.dropout), drops(end.drop_path));
        Ok(Self { dropout, scale, drop_path, dim: list.dim() })
    }

    /// `y = x + end(y)`
    pub(super) fn forward(
        &self,
        xs: &[f32],
        rows: &Rows,
        parameters: &OpParameters,
        ys: &mut [f32],
    ) -> Saved {
        let mask = self.dropout.map(|source| {
            let mut mask = Buffer::dirty(ys.len());
            let parts = rows.cut(&mut mask, self.dim).into_iter().zip(rows.cut(ys, self.dim));
            let cost = DRAW_COST * rows.count() * self.dim;
            parallel::for_each(cost, parts.enumerate(), |(sample, (mask, ys))| {
                source.fill(sample, mask);
                simd::dispatch(
                    #[inline(always)]
                    || slices::multiply(ys, mask),
                );
            });
            mask
        });
        let scaled = self.scale.map(|place| {
            let mut scaled = Buffer::dirty(ys.len());
            scaled.copy_from_slice(ys);
            scale(ys, parameters.all()[place]);
            scaled
        });
        let of_samples = self.drop_path.map(|source| {
            let mut of_samples = vec![0.0; rows.lengths.len()];
            for (sample, mask) in of_samples.chunks_exact_mut(1).enumerate() {
                source.fill(sample, mask);
            }
            scale_samples(ys, rows, self.dim, &of_samples);
            of_samples
        });
        // A sum of two numbers does not depend on their order.
        super::stack::add(ys, xs);
        Saved { mask, scaled, of_samples }
    }

    /// The gradient of the branch's last map, if it differs from the sum's.
    pub(super) fn backward(
        &self,
        saved: &Saved,
        rows: &Rows,
        grad: &[f32],
        parameters: &OpParameters,
        gradients: &mut Gradients,
    ) -> Option<Buffer> {
        let mut of_map = None;
        if self.scale.is_some() || self.drop_path.is_some() {
            let of_map = of_map.insert(Buffer::dirty(grad.len()));
            of_map.copy_from_slice(grad);
            if let Some(of_samples) = &saved.of_samples {
                scale_samples(of_map, rows, self.dim, of_samples);
            }
            if let (Some(place), Some(scaled)) = (self.scale, &saved.scaled) {
                gradients[place] = Some(scale_features::of_gamma(scaled, of_map, self.dim));
                scale(of_map, parameters.all()[place]);
            }
        }
        if let Some(mask) = &saved.mask {
            let mut masked = Buffer::dirty(grad.len());
            multiply(of_map.as_deref().unwrap_or(grad), mask, &mut masked);
            of_map = Some(masked);
        }
        of_map
    }
}

/// `y_i = x_i m_i`
fn multiply(xs: &[f32], mask: &[f32], ys: &mut [f32]) {
    let chunks = xs.chunks(CHUNK).zip(mask.chunks(CHUNK)).zip(ys.chunks_mut(CHUNK));
    parallel::for_each(COST * xs.len(), chunks, |((xs, mask), ys)| {
        simd::dispatch(
            #[inline(always)]
            || ys.iter_mut().zip(xs.iter().zip(mask)).for_each(|(y, (x, m))| *y = x * m),
        );
    });
}

/// Each row times `gamma`.
fn scale(xs: &mut [f32], gamma: &[f32]) {
    simd::dispatch(
        #[inline(always)]
        || xs.chunks_exact_mut(gamma.len()).for_each(|row| slices::multiply(row, gamma)),
    );
}

/// Multiplies each sample's rows by its factor.
fn scale_samples(xs: &mut [f32], rows: &Rows, dim: usize, of_samples: &[f32]) {
    for (part, factor) in rows.cut(xs, dim).into_iter().zip(of_samples) {
        part.iter_mut().for_each(|x| *x *= factor);
    }
}
