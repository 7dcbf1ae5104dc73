//! Converts between candle's tensors and the slices of the fused kernels.

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// Whether the fused forms apply: non-empty `f32` on the CPU.
pub(crate) fn fused(xs: &Tensor) -> bool {
    xs.device().is_cpu() && xs.dtype() == DType::F32 && xs.elem_count() > 0
}

/// The elements of a contiguous `f32` storage on the CPU.
pub(crate) fn of_storage<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, got strides {:?}", layout.stride());
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Runs `read` on the elements of a contiguous `f32` tensor on the CPU.
pub(crate) fn read<R>(xs: &Tensor, read: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = xs.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(of_storage(storage, layout)?),
        _ => bail!("expected a tensor on the CPU, got one on {:?}", xs.device().location()),
    }
}

/// The same on two tensors.
pub(crate) fn read2<R>(
    xs: &Tensor,
    ys: &Tensor,
    then: impl FnOnce(&[f32], &[f32]) -> Result<R>,
) -> Result<R> {
    read(xs, |xs| read(ys, |ys| then(xs, ys)))
}

/// The upstream gradient of a backward pass, contiguous.
///
/// # Errors
/// If it is part of a graph itself (`CANDLE_GRAD_DO_NOT_DETACH`). Our gradients are plain numbers, so second-order
/// gradients would be silently wrong.
pub(crate) fn upstream(grad: &Tensor) -> Result<Tensor> {
    if grad.track_op() {
        bail!(
            "expected a gradient to be taken once: the fused forms of f32 on the CPU have no second-order gradients; \
             unset CANDLE_GRAD_DO_NOT_DETACH, or compute in f64"
        );
    }
    grad.contiguous()
}

/// The return value of a custom operation's forward.
pub(crate) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A gradient with the shape of `like`.
pub(crate) fn gradient(values: Vec<f32>, like: &Tensor) -> Result<Option<Tensor>> {
    Tensor::from_vec(values, like.shape(), like.device()).map(Some)
}

/// The number of partial sums, so that a reduction fills vector registers of any width.
pub(crate) const LANES: usize = 16;

/// `sum_i f(i)` over `0..len`, in an order that depends only on `len`.
#[inline(always)]
fn sum_by(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = len - len % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, partial) in lanes.iter_mut().enumerate() {
            *partial += f(start + lane);
        }
    }
    (whole..len).map(f).sum::<f32>() + lanes.iter().sum::<f32>()
}

/// The largest number; negative infinity for an empty slice.
#[inline(always)]
pub(crate) fn max(xs: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = xs.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// `sum_i x_i`.
#[inline(always)]
pub(crate) fn sum(xs: &[f32]) -> f32 {
    sum_by(xs.len(), |i| xs[i])
}

/// `sum_i x_i y_i`.
#[inline(always)]
pub(crate) fn dot(xs: &[f32], ys: &[f32]) -> f32 {
    let ys = &ys[..xs.len()];
    sum_by(xs.len(), |i| xs[i] * ys[i])
}

/// `y_i += a x_i`.
#[inline(always)]
pub(crate) fn add_scaled(ys: &mut [f32], a: f32, xs: &[f32]) {
    for (y, x) in ys.iter_mut().zip(xs) {
        *y += a * x;
    }
}

/// `y_i *= x_i`, up to the shorter length.
#[inline(always)]
pub(crate) fn multiply(ys: &mut [f32], xs: &[f32]) {
    for (y, x) in ys.iter_mut().zip(xs) {
        *y *= x;
    }
}

/// `total_j += sum_i row_ij`, for the rows of a matrix as wide as `total`.
#[inline(always)]
pub(crate) fn add_rows(total: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(total.len()) {
        add_scaled(total, 1.0, row);
    }
}

/// Copies to the start of `to` without a `memcpy` call.
///
/// It stores as many numbers at once as [`Lanes`](crate::lanes::Lanes) load, because a load that spans two recent
/// stores waits for both.
#[inline(always)]
pub(crate) fn copy(from: &[f32], to: &mut [f32]) {
    let (blocks, rest) = from.as_chunks::<LANES>();
    let (to_blocks, to_rest) = to[..from.len()].as_chunks_mut::<LANES>();
    for (to, from) in to_blocks.iter_mut().zip(blocks) {
        *to = *from;
    }
    let (halves, rest) = rest.as_chunks::<{ LANES / 2 }>();
    let (to_halves, to_rest) = to_rest.as_chunks_mut::<{ LANES / 2 }>();
    for (to, from) in to_halves.iter_mut().zip(halves) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(rest) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_f64_at_every_length() {
        for len in 0..70 {
            let xs: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let ys: Vec<f32> = (0..len).map(|i| (i as f32 * 1.3).cos()).collect();
            let exact: f64 = xs.iter().map(|&x| f64::from(x)).sum();
            let product: f64 = xs.iter().zip(&ys).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            // Seventy terms below one, each rounded a few times.
            const TOLERANCE: f64 = 2e-5;
            assert!((f64::from(sum(&xs)) - exact).abs() < TOLERANCE);
            assert!((f64::from(dot(&xs, &ys)) - product).abs() < TOLERANCE);
        }
    }
}
