//! Rotary position embedding (Su et al., *RoFormer*, arXiv 2104.09864, eq. 34).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::{parallel, simd, slices};

/// The rotation angles of token `t`: `t base^(-2i / head_dim)` for the `i`-th pair of a head's numbers.
///
/// The pairs are `(x_i, x_(i + head_dim / 2))`, as in LLaMA and Hugging Face's transformers (`rotate_half`).
#[derive(Clone, Debug)]
pub struct Rotary {
    base: f64,
}

impl Rotary {
    /// Creates angles with this base, 10,000 in the paper.
    ///
    /// # Errors
    /// If `base` is not positive.
    pub fn new(base: f64) -> Result<Self> {
        if !(base > 0.0 && base.is_finite()) {
            bail!("rotary: expected a positive base, got {base}");
        }
        Ok(Self { base })
    }

    /// The rotations of `tokens` tokens.
    pub(crate) fn rotations(&self, tokens: usize, head_dim: usize) -> Result<Rotations> {
        let angles = self.angles(tokens, head_dim)?;
        let of = |f: fn(f64) -> f64| angles.iter().map(|&angle| f(angle) as f32).collect();
        Ok(Rotations { cos: of(f64::cos), sin: of(f64::sin), head_dim })
    }

    /// (tokens, head_dim / 2)
    fn angles(&self, tokens: usize, head_dim: usize) -> Result<Vec<f64>> {
        if !head_dim.is_multiple_of(2) {
            bail!("rotary: expected heads of an even width, got {head_dim}");
        }
        let pace = |pair| self.base.powf(-2.0 * pair as f64 / head_dim as f64);
        let paces: Vec<f64> = (0..head_dim / 2).map(pace).collect();
        Ok((0..tokens).flat_map(|t| paces.iter().map(move |pace| t as f64 * pace)).collect())
    }
}

/// Rotates each token's first `heads` heads by its position and keeps the rest. In packed queries, keys and values, the
/// first `2 * heads` heads are queries and keys.
///
/// `y_i = x_i cos a - x_j sin a`, `y_j = x_j cos a + x_i sin a` with `j = i + head_dim / 2`.
///
/// PyTorch equivalent: transformers' `apply_rotary_pos_emb`.
///
/// # Shapes
/// `xs` (batch, tokens, n * head_dim), `n` at least `heads` -> the same
///
/// # Errors
/// If `xs` has another shape, or the heads' width is odd.
pub fn rotary(xs: &Tensor, heads: usize, (table, head_dim): (&Rotary, usize)) -> Result<Tensor> {
    let (_batch, tokens, width) = xs.dims3()?;
    if head_dim == 0 || heads * head_dim > width {
        bail!(
            "rotary: expected xs of at least {heads} heads of {head_dim} numbers, got {:?}",
            xs.dims()
        );
    }
    if !slices::fused(xs) {
        return composed::rotary(xs, heads, (table, head_dim));
    }
    let rotations = table.rotations(tokens, head_dim)?;
    xs.contiguous()?.apply_op1(Rotate { rotations, heads })
}

pub(crate) mod composed {
    use super::{Result, Rotary, Tensor};
    use candle_core::{D, Device};

    /// [`rotary`](crate::rotary()) from candle's tensor operations.
    ///
    /// # Errors
    /// Like the fused form.
    pub fn rotary(
        xs: &Tensor,
        heads: usize,
        (table, head_dim): (&Rotary, usize),
    ) -> Result<Tensor> {
        let (batch, tokens, width) = xs.dims3()?;
        let (half, turned) = (head_dim / 2, heads * head_dim);
        let angles = table.angles(tokens, head_dim)?;
        let angles = Tensor::from_vec(angles, (tokens, 1, half), &Device::Cpu)?;
        let of = |values: Tensor| values.to_dtype(xs.dtype())?.to_device(xs.device());
        let (cos, sin) = (of(angles.cos()?)?, of(angles.sin()?)?);
        let by_head = xs.narrow(2, 0, turned)?.contiguous()?;
        let by_head = by_head.reshape((batch, tokens, heads, head_dim))?;
        let (first, second) =
            (by_head.narrow(D::Minus1, 0, half)?, by_head.narrow(D::Minus1, half, half)?);
        let of_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
        let of_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
        let ys = Tensor::cat(&[of_first, of_second], D::Minus1)?;
        let ys = ys.reshape((batch, tokens, turned))?;
        if turned == width {
            return Ok(ys);
        }
        Tensor::cat(&[ys, xs.narrow(2, turned, width - turned)?], 2)
    }
}

/// The sines and cosines of tokens, (tokens, head_dim / 2) each.
#[derive(Debug)]
pub(crate) struct Rotations {
    cos: Vec<f32>,
    sin: Vec<f32>,
    head_dim: usize,
}

/// Cost of a number in multiply-adds, for [`parallel`].
const COST: usize = 4;

impl Rotations {
    /// Rotates the first `heads` heads of rows of `width` numbers, in samples of these lengths.
    pub(crate) fn forward(&self, rows: &mut [f32], width: usize, lengths: &[usize], heads: usize) {
        self.turn(rows, width, lengths, heads, 1.0);
    }

    /// Rotates back: the gradient, because rotations are orthogonal.
    pub(crate) fn backward(&self, rows: &mut [f32], width: usize, lengths: &[usize], heads: usize) {
        self.turn(rows, width, lengths, heads, -1.0);
    }

    fn turn(&self, rows: &mut [f32], width: usize, lengths: &[usize], heads: usize, sign: f32) {
        let (half, cost) = (self.head_dim / 2, COST * rows.len());
        let mut samples = Vec::with_capacity(lengths.len());
        let mut rest = rows;
        for length in lengths {
            let (sample, others) = rest.split_at_mut(length * width);
            samples.push(sample);
            rest = others;
        }
        parallel::for_each(cost, samples, |sample| {
            simd::dispatch(
                #[inline(always)]
                || {
                    let table = self.cos.chunks_exact(half).zip(self.sin.chunks_exact(half));
                    for (row, (cos, sin)) in sample.chunks_exact_mut(width).zip(table) {
                        for head in row[..heads * 2 * half].chunks_exact_mut(2 * half) {
                            let (first, second) = head.split_at_mut(half);
                            let each = first.iter_mut().zip(second).zip(cos.iter().zip(sin));
                            for ((x, y), (cos, sin)) in each {
                                let sin = sign * sin;
                                (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
                            }
                        }
                    }
                },
            );
        });
    }
}

struct Rotate {
    rotations: Rotations,
    heads: usize,
}

impl Rotate {
    fn lengths(dims: &[usize]) -> (usize, Vec<usize>) {
        (dims[2], vec![dims[1]; dims[0]])
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut ys = slices::of_storage(xs, layout)?.to_vec();
        let (width, lengths) = Self::lengths(layout.dims());
        self.rotations.forward(&mut ys, width, &lengths, self.heads);
        slices::output(ys, layout.shape().clone())
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = slices::upstream(grad)?;
        let mut of_xs = slices::read(&grad, |grad| Ok(grad.to_vec()))?;
        let (width, lengths) = Self::lengths(xs.dims());
        self.rotations.backward(&mut of_xs, width, &lengths, self.heads);
        slices::gradient(of_xs, xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::tests::assert_threads_do_not_show;
    use crate::testing::{Case, tensors};

    fn table() -> Rotary {
        Rotary::new(100.0).expect("a positive base")
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (tokens, heads, of, head_dim) in [(1, 1, 1, 2), (5, 2, 3, 6), (17, 4, 6, 32)] {
            Case::new(&[&[2, tokens, of * head_dim]])?.fused_equals_composed(
                |t| rotary(&t[0], heads, (&table(), head_dim)),
                |t| composed::rotary(&t[0], heads, (&table(), head_dim)),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[2, 3, 12]])?
            .gradients_match_differences(|t| composed::rotary(&t[0], 2, (&table(), 4)))
    }

    #[test]
    fn products_depend_on_distances_only() -> Result<()> {
        // The same query and key at every position.
        let [q, k] = tensors(&[&[1, 1, 8], &[1, 1, 8]])?;
        let turned = |xs: &Tensor| rotary(&xs.repeat((1, 6, 1))?, 1, (&table(), 8))?.squeeze(0);
        let scores = turned(&q)?.matmul(&turned(&k)?.t()?)?.to_vec2::<f32>()?;
        for distance in 0..5 {
            for t in 0..5 - distance {
                let (here, next) = (scores[t][t + distance], scores[t + 1][t + 1 + distance]);
                assert!((here - next).abs() < 1e-5, "{here} {next}");
            }
        }
        Ok(())
    }

    #[test]
    fn transposed_and_empty_inputs_work() -> Result<()> {
        Case::new(&[&[4, 2, 8]])?.fused_equals_composed(
            |t| rotary(&t[0].transpose(0, 1)?, 2, (&table(), 4)),
            |t| composed::rotary(&t[0].transpose(0, 1)?.contiguous()?, 2, (&table(), 4)),
        )?;
        let [none] = tensors(&[&[0, 3, 8]])?;
        assert_eq!(rotary(&none, 1, (&table(), 8))?.dims(), [0, 3, 8]);
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let [xs] = tensors(&[&[64, 64, 384]])?;
        assert_threads_do_not_show(|| {
            let ys = rotary(&xs, 8, (&table(), 32)).and_then(|ys| ys.to_vec3::<f32>());
            ys.expect("an output")
        });
        Ok(())
    }

    #[test]
    fn wrong_widths_and_bases_are_named() -> Result<()> {
        let [xs] = tensors(&[&[1, 2, 6]])?;
        let error = rotary(&xs, 1, (&table(), 3)).unwrap_err().to_string();
        assert!(error.contains("expected heads of an even width, got 3"), "{error}");
        let error = rotary(&xs, 2, (&table(), 4)).unwrap_err().to_string();
        assert!(error.contains("at least 2 heads of 4 numbers, got [1, 2, 6]"), "{error}");
        let error = Rotary::new(0.0).unwrap_err().to_string();
        assert!(error.contains("expected a positive base, got 0"), "{error}");
        Ok(())
    }
}
