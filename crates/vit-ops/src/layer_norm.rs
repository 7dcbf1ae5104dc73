//! Layer normalisation (Ba, Kiros, Hinton, arXiv 1607.06450).

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::lanes::Lanes;
use crate::simd::{self, Kernel};
use crate::slices::{self, LANES};
use crate::{parallel, pieces};

/// `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias` over the last dimension, with the biased variance computed in
/// two passes.
///
/// PyTorch equivalent: `torch.nn.functional.layer_norm(xs, [dim], weight, bias, eps)`.
///
/// # Shapes
/// `xs` (..., dim), `weight` (dim), `bias` (dim) -> (..., dim)
///
/// # Errors
/// If the shapes do not match.
pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dim = weight.dims1()?;
    if xs.dims().last() != Some(&dim) || bias.dims() != [dim] {
        bail!(
            "layer norm: expected xs of shape (..., {dim}) and a bias of shape ({dim},), got {:?} and {:?}",
            xs.dims(),
            bias.dims()
        );
    }
    if xs.elem_count() == 0 {
        return Ok(xs.clone());
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) {
        return crate::cuda::layer_norm(xs, weight, bias, eps);
    }
    if !slices::fused(xs) {
        return composed::layer_norm(xs, weight, bias, eps);
    }
    let op = LayerNorm { eps: eps as f32, rows: OnceLock::new() };
    xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use crate::precision::widened;
    use candle_core::D;

    /// [`layer_norm`](crate::layer_norm()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let (dtype, xs) = (xs.dtype(), widened(xs)?);
        let centered = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        let normalised = centered.broadcast_div(&(variance + eps)?.sqrt()?)?;
        let scaled = normalised.broadcast_mul(&widened(weight)?)?;
        scaled.broadcast_add(&widened(bias)?)?.to_dtype(dtype)
    }
}

/// The part of a row that the backward pass needs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    mean: f32,
    /// `1 / sqrt(Var[x] + eps)`
    scale: f32,
}

/// A row padded to whole registers.
struct Padded(Vec<[f32; LANES]>);

impl Padded {
    fn zeros(len: usize) -> Self {
        Self(vec![[0.0; LANES]; len.div_ceil(LANES)])
    }

    fn of(xs: &[f32]) -> Self {
        let mut padded = Self::zeros(xs.len());
        padded.fill(xs);
        padded
    }

    #[inline(always)]
    fn fill(&mut self, xs: &[f32]) {
        slices::copy(xs, self.0.as_flattened_mut());
    }

    /// Sets the padding after the first `len` numbers.
    #[inline(always)]
    fn pad(&mut self, len: usize, x: f32) {
        for beyond in &mut self.0.as_flattened_mut()[len..] {
            *beyond = x;
        }
    }
}

struct Forward<'a> {
    eps: f32,
    xs: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    ys: &'a mut [f32],
    rows: &'a mut [Row],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { eps, xs, weight, bias, ys, rows } = self;
        let dim = weight.len();
        let share = 1.0 / dim as f32;
        let each = xs.chunks_exact(dim).zip(ys.chunks_exact_mut(dim)).zip(rows);
        if let ((weight, []), (bias, [])) = (weight.as_chunks(), bias.as_chunks()) {
            for ((xs, ys), row) in each {
                let xs = xs.as_chunks().0;
                row.mean = sum(lanes, xs) * share;
                row.scale = inverse_deviation(lanes, xs, row.mean, share, eps);
                let normal = xs.iter().zip(ys.as_chunks_mut().0).zip(weight.iter().zip(bias));
                for ((x, y), (w, b)) in normal {
                    lanes.store(normalise(lanes, row, x, w, b), y);
                }
            }
            return;
        }
        let (weight, bias) = (Padded::of(weight), Padded::of(bias));
        let mut padded = Padded::zeros(dim);
        for ((xs, ys), row) in each {
            padded.fill(xs);
            padded.pad(dim, 0.0);
            row.mean = sum(lanes, &padded.0) * share;
            padded.pad(dim, row.mean);
            row.scale = inverse_deviation(lanes, &padded.0, row.mean, share, eps);
            for ((x, w), b) in padded.0.iter_mut().zip(&weight.0).zip(&bias.0) {
                lanes.store(normalise(lanes, row, x, w, b), x);
            }
            slices::copy(&padded.0.as_flattened()[..dim], ys);
        }
    }
}

#[inline(always)]
fn sum<L: Lanes>(lanes: L, xs: &[[f32; LANES]]) -> f32 {
    let mut total = lanes.splat(0.0);
    for x in xs {
        total = lanes.add(total, lanes.load(x));
    }
    lanes.sum(total)
}

/// `1 / sqrt(Var[x] + eps)`, where each number has this weight; padding equals the mean.
#[inline(always)]
fn inverse_deviation<L: Lanes>(
    lanes: L,
    xs: &[[f32; LANES]],
    mean: f32,
    share: f32,
    eps: f32,
) -> f32 {
    let mean = lanes.splat(mean);
    let mut squares = lanes.splat(0.0);
    for x in xs {
        let centered = lanes.sub(lanes.load(x), mean);
        squares = lanes.add(squares, lanes.mul(centered, centered));
    }
    1.0 / (lanes.sum(squares) * share + eps).sqrt()
}

#[inline(always)]
fn normalise<L: Lanes>(
    lanes: L,
    row: &Row,
    x: &[f32; LANES],
    weight: &[f32; LANES],
    bias: &[f32; LANES],
) -> L::Vector {
    let centered = lanes.sub(lanes.load(x), lanes.splat(row.mean));
    let normal = lanes.mul(centered, lanes.splat(row.scale));
    lanes.add(lanes.mul(normal, lanes.load(weight)), lanes.load(bias))
}

/// With `n = (x - mean) scale` and `g = dy w`: `dx = scale (g - E[g] - n E[g n])`, `dw = sum dy n`, `db = sum dy`.
struct Backward<'a> {
    xs: &'a [f32],
    weight: &'a [f32],
    rows: &'a [Row],
    grad: &'a [f32],
    grad_xs: &'a mut [f32],
    of_weight: &'a mut [f32],
    of_bias: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let dim = self.weight.len();
        let mut pass = Pass {
            share: 1.0 / dim as f32,
            weight: Padded::of(self.weight),
            of_weight: Padded::zeros(dim),
            of_bias: Padded::zeros(dim),
            normalised: Padded::zeros(dim),
            weighted: Padded::zeros(dim),
        };
        let each = self.xs.chunks_exact(dim).zip(self.grad.chunks_exact(dim));
        let each = each.zip(self.grad_xs.chunks_exact_mut(dim)).zip(self.rows);
        if dim.is_multiple_of(LANES) {
            for (((xs, grad), grad_xs), row) in each {
                let (xs, grad) = (xs.as_chunks().0, grad.as_chunks().0);
                pass.add_row(lanes, row, xs, grad, grad_xs.as_chunks_mut().0);
            }
        } else {
            let [mut padded_xs, mut padded_grad, mut out] = [(); 3].map(|()| Padded::zeros(dim));
            for (((xs, grad), grad_xs), row) in each {
                padded_xs.fill(xs);
                padded_xs.pad(dim, row.mean);
                padded_grad.fill(grad);
                pass.add_row(lanes, row, &padded_xs.0, &padded_grad.0, &mut out.0);
                slices::copy(&out.0.as_flattened()[..dim], grad_xs);
            }
        }
        slices::copy(&pass.of_weight.0.as_flattened()[..dim], self.of_weight);
        slices::copy(&pass.of_bias.0.as_flattened()[..dim], self.of_bias);
    }
}

/// The gradients of scale and shift so far, and memory for a row.
struct Pass {
    share: f32,
    weight: Padded,
    of_weight: Padded,
    of_bias: Padded,
    normalised: Padded,
    weighted: Padded,
}

impl Pass {
    /// Adds a row and writes its own gradient. Beyond the row, `xs` is the mean, and `grad` zero.
    #[inline(always)]
    fn add_row<L: Lanes>(
        &mut self,
        lanes: L,
        row: &Row,
        xs: &[[f32; LANES]],
        grad: &[[f32; LANES]],
        grad_xs: &mut [[f32; LANES]],
    ) {
        let Self { share, weight, of_weight, of_bias, normalised, weighted } = self;
        let (mean, scale) = (lanes.splat(row.mean), lanes.splat(row.scale));
        let (mut total, mut along) = (lanes.splat(0.0), lanes.splat(0.0));
        let each = xs.iter().zip(grad).zip(&weight.0);
        let each = each.zip(of_weight.0.iter_mut().zip(&mut of_bias.0));
        let kept = normalised.0.iter_mut().zip(&mut weighted.0);
        for ((((x, dy), w), (dw, db)), (n, g)) in each.zip(kept) {
            let dy = lanes.load(dy);
            let normal = lanes.mul(lanes.sub(lanes.load(x), mean), scale);
            let product = lanes.mul(dy, lanes.load(w));
            total = lanes.add(total, product);
            along = lanes.add(along, lanes.mul(product, normal));
            lanes.store(lanes.add(lanes.load(dw), lanes.mul(dy, normal)), dw);
            lanes.store(lanes.add(lanes.load(db), dy), db);
            lanes.store(normal, n);
            lanes.store(product, g);
        }
        let total = lanes.splat(lanes.sum(total) * *share);
        let along = lanes.splat(lanes.sum(along) * *share);
        for ((dx, g), n) in grad_xs.iter_mut().zip(&weighted.0).zip(&normalised.0) {
            let rest = lanes.sub(lanes.load(g), total);
            let rest = lanes.sub(rest, lanes.mul(lanes.load(n), along));
            lanes.store(lanes.mul(scale, rest), dx);
        }
    }
}

/// The gradients of scale and shift for columns from `first` on, summed in row order like [`Backward`].
fn add_parameters(
    (xs, grad): (&[f32], &[f32]),
    rows: &[Row],
    (dim, first): (usize, usize),
    (of_weight, of_bias): (&mut [f32], &mut [f32]),
) {
    simd::dispatch(
        #[inline(always)]
        || {
            let each = xs.chunks_exact(dim).zip(grad.chunks_exact(dim)).zip(rows);
            for ((xs, grad), row) in each {
                let each = xs[first..].iter().zip(&grad[first..]);
                for ((dw, db), (x, dy)) in of_weight.iter_mut().zip(of_bias.iter_mut()).zip(each) {
                    *dw += dy * ((x - row.mean) * row.scale);
                    *db += dy;
                }
            }
        },
    );
}

/// Rows and columns per piece.
const ROWS: usize = 32;
const STRIP: usize = 64;

/// Cost of an element in the forward pass in multiply-adds, for [`parallel`].
const COST: usize = 16;

/// Writes the outputs and returns what the backward pass needs.
pub(crate) fn forward(
    eps: f32,
    xs: &[f32],
    (weight, bias): (&[f32], &[f32]),
    ys: &mut [f32],
) -> Vec<Row> {
    let mut rows = vec![Row::default(); xs.len() / weight.len()];
    let len = ROWS * weight.len();
    let pieces = xs.chunks(len).zip(ys.chunks_mut(len)).zip(rows.chunks_mut(ROWS));
    parallel::for_each(COST * xs.len(), pieces, |((xs, ys), rows)| {
        simd::run(Forward { eps, xs, weight, bias, ys, rows });
    });
    rows
}

/// Writes the gradient of the inputs and returns the gradients of scale and shift.
pub(crate) fn backward(
    xs: &[f32],
    weight: &[f32],
    rows: &[Row],
    grad: &[f32],
    grad_xs: &mut [f32],
) -> [Vec<f32>; 2] {
    let dim = weight.len();
    let mut of_weight = pieces::sum((rows.len(), 2 * dim), |Range { start, end }, total| {
        let numbers = start * dim..end * dim;
        let (xs, grad) = (&xs[numbers.clone()], &grad[numbers.clone()]);
        let parameters = total.split_at_mut(dim);
        let grad_xs = &mut grad_xs[numbers];
        backward_of_piece((xs, weight), &rows[start..end], grad, grad_xs, parameters);
    });
    let of_bias = of_weight.split_off(dim);
    [of_weight, of_bias]
}

fn backward_of_piece(
    (xs, weight): (&[f32], &[f32]),
    rows: &[Row],
    grad: &[f32],
    grad_xs: &mut [f32],
    (of_weight, of_bias): (&mut [f32], &mut [f32]),
) {
    let (dim, cost) = (weight.len(), COST * xs.len());
    if !parallel::splits(cost) {
        return simd::run(Backward { xs, weight, rows, grad, grad_xs, of_weight, of_bias });
    }
    let len = ROWS * dim;
    let pieces = xs.chunks(len).zip(grad.chunks(len)).zip(grad_xs.chunks_mut(len));
    parallel::for_each(cost, pieces.zip(rows.chunks(ROWS)), |(((xs, grad), grad_xs), rows)| {
        // Its other gradients cover only these rows, so they are ignored.
        let [mut of_weight, mut of_bias] = [(); 2].map(|()| vec![0.0; dim]);
        let (of_weight, of_bias) = (&mut of_weight[..], &mut of_bias[..]);
        simd::run(Backward { xs, weight, rows, grad, grad_xs, of_weight, of_bias });
    });
    of_weight.fill(0.0);
    of_bias.fill(0.0);
    let strips = of_weight.chunks_mut(STRIP).zip(of_bias.chunks_mut(STRIP)).enumerate();
    parallel::for_each(cost, strips, |(strip, parameters)| {
        add_parameters((xs, grad), rows, (dim, strip * STRIP), parameters);
    });
}

struct LayerNorm {
    eps: f32,
    rows: OnceLock<Vec<Row>>,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs = slices::of_storage(xs, xs_layout)?;
        let weight = slices::of_storage(weight, weight_layout)?;
        let bias = slices::of_storage(bias, bias_layout)?;
        let mut ys = vec![0.0; xs.len()];
        let rows = forward(self.eps, xs, (weight, bias), &mut ys);
        // An operation runs forward once; its value lives in the graph until the backward pass.
        let _ = self.rows.set(rows);
        slices::output(ys, xs_layout.shape().clone())
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let rows = self.rows.get().expect("the forward pass ran before the backward pass");
        let grad = slices::upstream(grad)?;
        let mut grad_xs = vec![0.0; xs.elem_count()];
        let [grad_weight, grad_bias] = slices::read2(xs, weight, |xs, weight| {
            let grad_xs = &mut grad_xs;
            slices::read(&grad, |grad| Ok(backward(xs, weight, rows, grad, grad_xs)))
        })?;
        Ok((
            slices::gradient(grad_xs, xs)?,
            slices::gradient(grad_weight, weight)?,
            slices::gradient(grad_bias, bias)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::tests::assert_threads_do_not_show;
    use crate::testing::{Case, tensors};
    use candle_core::Var;

    const EPS: f64 = 1e-5;

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        // Not two wide: there the exact gradient is nearly zero, and only rounding is left.
        let shapes: [&[usize]; 5] = [&[4, 1], &[3, 5], &[2, 16, 32], &[7, 33], &[2, 3, 4, 192]];
        for shape in shapes {
            let dim = *shape.last().expect("a shape has a last dimension");
            Case::new(&[shape, &[dim], &[dim]])?.fused_equals_composed(
                |t| layer_norm(&t[0], &t[1], &t[2], EPS),
                |t| composed::layer_norm(&t[0], &t[1], &t[2], EPS),
            )?;
        }
        Ok(())
    }

    /// Outputs and gradients of a few rows of this width.
    #[derive(Clone, Copy)]
    struct ThereAndBack(usize);

    impl Kernel for ThereAndBack {
        type Output = [Vec<f32>; 4];

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> [Vec<f32>; 4] {
            const ROWS: usize = 5;
            let dim = self.0;
            let waves = |len: usize, pace: f32| -> Vec<f32> {
                (0..len).map(|i| (i as f32 * pace).sin()).collect()
            };
            let (xs, grad) = (waves(ROWS * dim, 0.7), waves(ROWS * dim, 1.3));
            let (weight, bias) = (waves(dim, 0.3), waves(dim, 0.9));
            let (mut ys, mut grad_xs) = (vec![0.0; ROWS * dim], vec![0.0; ROWS * dim]);
            let mut rows = vec![Row::default(); ROWS];
            let eps = EPS as f32;
            Forward { eps, xs: &xs, weight: &weight, bias: &bias, ys: &mut ys, rows: &mut rows }
                .run(lanes);
            let (rows, grad) = (&rows[..], &grad[..]);
            let [mut grad_weight, mut grad_bias] = [(); 2].map(|()| vec![0.0; dim]);
            Backward {
                xs: &xs,
                weight: &weight,
                rows,
                grad,
                grad_xs: &mut grad_xs,
                of_weight: &mut grad_weight,
                of_bias: &mut grad_bias,
            }
            .run(lanes);
            [ys, grad_xs, grad_weight, grad_bias]
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for dim in [1, 5, 16, 33, 192] {
            let want = ThereAndBack(dim).run(crate::lanes::Portable);
            for (path, got) in simd::run_on_every_path(ThereAndBack(dim)) {
                assert_eq!(got, want, "{path}: {dim}");
            }
        }
    }

    #[test]
    fn transposed_and_empty_inputs_work() -> Result<()> {
        Case::new(&[&[5, 6], &[5], &[5]])?.fused_equals_composed(
            |t| layer_norm(&t[0].t()?, &t[1], &t[2], EPS),
            |t| composed::layer_norm(&t[0].t()?.contiguous()?, &t[1], &t[2], EPS),
        )?;
        let [none, weight, bias] = tensors(&[&[0, 5], &[5], &[5]])?;
        assert_eq!(layer_norm(&none, &weight, &bias, EPS)?.dims(), [0, 5]);
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3, 6], &[6], &[6]])?
            .gradients_match_differences(|t| composed::layer_norm(&t[0], &t[1], &t[2], EPS))
    }

    #[test]
    fn large_mean_does_not_spoil_the_variance() -> Result<()> {
        // E[x²] - mean² would lose every digit here.
        let xs = Tensor::new(&[[1000.0_f32, 1000.1, 999.9, 1000.0]], &candle_core::Device::Cpu)?;
        let ones = xs.ones_like()?.squeeze(0)?;
        let ys = layer_norm(&xs, &ones, &ones.zeros_like()?, EPS)?.to_vec2::<f32>()?;
        assert!((ys[0][1] - 1.413_5).abs() < 5e-3, "{ys:?}");
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[ROWS + 300, 500], &[500], &[500]])?;
        assert_threads_do_not_show(|| {
            let vars = [&xs, &weight, &bias].map(|t| Var::from_tensor(t).expect("a variable"));
            let ys = layer_norm(&vars[0], &vars[1], &vars[2], EPS).expect("an output");
            let grads = ys.sqr().and_then(|ys| ys.backward()).expect("gradients");
            let grad = |var| grads.get(var).expect("a gradient").flatten_all();
            let grads = vars.each_ref().map(|var| grad(var).expect("a vector").to_vec1::<f32>());
            (ys.to_vec2::<f32>().expect("a matrix"), grads.map(|grad| grad.expect("a vector")))
        });
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_named() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[2, 4], &[5], &[5]])?;
        let error = layer_norm(&xs, &weight, &bias, EPS).unwrap_err().to_string();
        assert!(error.contains("expected xs of shape (..., 5)"), "{error}");
        Ok(())
    }
}
