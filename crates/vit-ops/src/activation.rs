//! The activations of a feed-forward.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use serde::{Deserialize, Serialize};

use crate::buffer::Buffer;
use crate::lanes::{Lanes, update};
use crate::normal::normal;
use crate::simd::{self, Kernel};
use crate::{parallel, slices};

/// An elementwise function, with PyTorch's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`, with gradient 0 at 0 (candle's is 1). NaN stays NaN.
    /// PyTorch equivalent: `torch.relu`.
    Relu,
    /// `x Φ(x) = x (1 + erf(x / √2)) / 2` (Hendrycks, Gimpel, arXiv 1606.08415).
    /// PyTorch equivalent: `torch.nn.functional.gelu(xs, approximate="none")`.
    Gelu,
}

impl Activation {
    /// Applies the function to each element.
    ///
    /// # Shapes
    /// `xs` (...) -> (...)
    ///
    /// # Errors
    /// If candle cannot compute it on the tensor's device and dtype.
    pub fn forward(self, xs: &Tensor) -> Result<Tensor> {
        match self {
            _ if slices::fused(xs) => xs.contiguous()?.apply_op1(self),
            Self::Relu => composed::relu(xs),
            Self::Gelu => composed::gelu(xs),
        }
    }
}

pub(crate) mod composed {
    use super::{Result, Tensor};
    use std::f64::consts::FRAC_1_SQRT_2;

    /// [`Activation::Relu`](crate::Activation::Relu) from candle's tensor operations.
    ///
    /// # Errors
    /// If candle cannot compute it on the tensor's device and dtype.
    pub fn relu(xs: &Tensor) -> Result<Tensor> {
        let zeros = xs.zeros_like()?;
        xs.le(&zeros)?.where_cond(&zeros, xs)
    }

    /// [`Activation::Gelu`](crate::Activation::Gelu) from candle's tensor operations; candle's own
    /// `gelu_erf` has a constant of six digits in its gradient.
    ///
    /// # Errors
    /// If candle cannot compute it on the tensor's device and dtype.
    pub fn gelu(xs: &Tensor) -> Result<Tensor> {
        (xs * 0.5)? * ((xs * FRAC_1_SQRT_2)?.erf()? + 1.0)?
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Gelu => "gelu",
        }
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut ys = slices::of_storage(xs, layout)?.to_vec();
        self.replace(&mut ys);
        slices::output(ys, layout.shape().clone())
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = slices::upstream(grad)?;
        let values = slices::read2(&grad, xs, |grad, xs| Ok(self.gradient(grad, xs)))?;
        slices::gradient(values, xs)
    }
}

impl Activation {
    /// Applies the function in place.
    pub(crate) fn replace(self, xs: &mut [f32]) {
        match self {
            Self::Relu => relu(xs),
            Self::Gelu => {
                parallel::for_each(GELU_COST * xs.len(), xs.chunks_mut(CHUNK), |ys| {
                    simd::run_fused(Gelu { xs: None, ys });
                });
            }
        }
    }

    /// `dx = dy [x > 0]` or `dx = dy (Φ(x) + x φ(x))`. For ReLU, `xs` may be the outputs.
    pub(crate) fn gradient(self, grad: &[f32], xs: &[f32]) -> Vec<f32> {
        let mut grad = grad.to_vec();
        match self {
            Self::Relu => gradient_of_relu(&mut grad, xs),
            Self::Gelu => gelu_again(xs, &mut Buffer::dirty(xs.len()), &mut grad),
        }
        grad
    }
}

/// `y = GELU(x)`
pub(crate) fn gelu(xs: &[f32], ys: &mut [f32]) {
    let chunks = ys.chunks_mut(CHUNK).zip(xs.chunks(CHUNK));
    parallel::for_each(GELU_COST * xs.len(), chunks, |(ys, xs)| {
        simd::run_fused(Gelu { xs: Some(xs), ys });
    });
}

struct Gelu<'a> {
    /// The inputs; `ys` itself if there are none.
    xs: Option<&'a [f32]>,
    ys: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        match self.xs {
            Some(xs) => update(
                lanes,
                [xs],
                [self.ys],
                #[inline(always)]
                |[x], _| [lanes.mul(x, normal(lanes, x).0)],
            ),
            None => update(
                lanes,
                [],
                [self.ys],
                #[inline(always)]
                |[], [x]| [lanes.mul(x, normal(lanes, x).0)],
            ),
        }
    }
}

/// Computes GELU's outputs from its inputs `xs` once more, and replaces the outputs' gradient with the inputs'.
pub(crate) fn gelu_again(xs: &[f32], ys: &mut [f32], grad: &mut [f32]) {
    let chunks = ys.chunks_mut(CHUNK).zip(grad.chunks_mut(CHUNK)).zip(xs.chunks(CHUNK));
    parallel::for_each(GELU_COST * xs.len(), chunks, |((ys, grad), xs)| {
        simd::run_fused(GeluAgain { xs, ys, grad });
    });
}

struct GeluAgain<'a> {
    xs: &'a [f32],
    ys: &'a mut [f32],
    grad: &'a mut [f32],
}

impl Kernel for GeluAgain<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        update(
            lanes,
            [self.xs],
            [self.ys, self.grad],
            #[inline(always)]
            |[x], [_, grad]| {
                let (cumulative, density) = normal(lanes, x);
                let slope = lanes.mul_add(x, density, cumulative);
                [lanes.mul(x, cumulative), lanes.mul(grad, slope)]
            },
        );
    }
}

/// Replaces the gradient of ReLU's outputs `ys` with its inputs'.
pub(crate) fn gradient_of_relu(grad: &mut [f32], ys: &[f32]) {
    let chunks = grad.chunks_mut(CHUNK).zip(ys.chunks(CHUNK));
    parallel::for_each(RELU_COST * ys.len(), chunks, |(grad, ys)| {
        simd::dispatch(
            #[inline(always)]
            || {
                for (dy, &y) in grad.iter_mut().zip(ys) {
                    *dy = if y <= 0.0 { 0.0 } else { *dy };
                }
            },
        );
    });
}

/// Cost of an element in multiply-adds, for [`parallel`].
const RELU_COST: usize = 4;
const GELU_COST: usize = 32;

/// Elements per piece.
const CHUNK: usize = 16_384;

/// `x_i = max(x_i, 0)`
fn relu(xs: &mut [f32]) {
    parallel::for_each(RELU_COST * xs.len(), xs.chunks_mut(CHUNK), |xs| {
        simd::dispatch(
            #[inline(always)]
            || xs.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { *x }),
        );
    });
}

/// `x_ij = max(x_ij + b_j, 0)` for each row `i`, in one pass.
pub(crate) fn relu_of_sums(xs: &mut [f32], bias: &[f32]) {
    let cost = RELU_COST * xs.len();
    let rows = xs.chunks_mut(CHUNK.next_multiple_of(bias.len()));
    parallel::for_each(cost, rows, |rows| {
        simd::dispatch(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(bias.len()) {
                    for (x, b) in row.iter_mut().zip(bias) {
                        let sum = *x + b;
                        *x = if sum <= 0.0 { 0.0 } else { sum };
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::tests::assert_threads_do_not_show;
    use crate::testing::{Case, tensors};
    use candle_core::{DType, Device, Var};

    type Form = fn(&Tensor) -> Result<Tensor>;
    const FORMS: [(Activation, Form); 2] =
        [(Activation::Relu, composed::relu), (Activation::Gelu, composed::gelu)];

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (activation, twin) in FORMS {
            for len in 1..40 {
                Case::new(&[&[len]])?
                    .fused_equals_composed(|t| activation.forward(&t[0]), |t| twin(&t[0]))?;
            }
            Case::new(&[&[5, 6]])?
                .fused_equals_composed(|t| activation.forward(&t[0].t()?), |t| twin(&t[0].t()?))?;
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[4, 5]])?.gradients_match_differences(|t| composed::relu(&t[0]))?;
        Case::new(&[&[4, 5]])?.gradients_match_differences(|t| composed::gelu(&t[0]))
    }

    #[test]
    fn relu_at_zero_and_nan_equals_pytorchs() -> Result<()> {
        for form in [composed::relu, |xs: &Tensor| Activation::Relu.forward(xs)] {
            let xs = Var::new(&[-1.0_f32, -0.0, 0.0, 2.0, f32::NAN], &Device::Cpu)?;
            let ys = form(&xs)?;
            let grads = ys.backward()?;
            let grad = grads.get(&xs).expect("relu has a gradient").to_vec1::<f32>()?;
            assert_eq!(&ys.to_vec1::<f32>()?[..4], [0.0, 0.0, 0.0, 2.0]);
            assert!(ys.to_vec1::<f32>()?[4].is_nan());
            assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 1.0]);
        }
        Ok(())
    }

    #[test]
    fn gelu_uses_the_error_function() -> Result<()> {
        let xs = [-3.0_f64, -0.5, 0.0, 1.0];
        // torch.nn.functional.gelu in float64.
        let want =
            [-0.004_049_694_094_890_29, -0.154_268_769_362_993_46, 0.0, 0.841_344_746_068_542_9];
        for (dtype, tolerance) in [(DType::F64, 1e-15), (DType::F32, 2e-7)] {
            let ys = Activation::Gelu.forward(&Tensor::new(&xs, &Device::Cpu)?.to_dtype(dtype)?)?;
            for (got, want) in ys.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().zip(want) {
                assert!((got - want).abs() < tolerance, "{got} {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn gelu_of_infinity_and_nan_equals_pytorchs() -> Result<()> {
        let xs = Tensor::new(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN], &Device::Cpu)?;
        let ys = Activation::Gelu.forward(&xs)?.to_vec1::<f32>()?;
        assert_eq!(ys[0], f32::INFINITY);
        assert!(ys[1].is_nan() && ys[2].is_nan());
        Ok(())
    }

    #[test]
    fn threads_do_not_change_a_bit() -> Result<()> {
        let [xs] = tensors(&[&[300, 1000]])?;
        assert_threads_do_not_show(|| {
            let ys = Activation::Gelu.forward(&xs).and_then(|ys| ys.to_vec2::<f32>());
            ys.expect("a matrix")
        });
        Ok(())
    }

    #[test]
    fn empty_and_scalar_inputs_work() -> Result<()> {
        for (activation, _) in FORMS {
            assert_eq!(activation.forward(&Tensor::new(&[] as &[f32], &Device::Cpu)?)?.dims(), [0]);
            let one = activation.forward(&Tensor::new(30.0_f32, &Device::Cpu)?)?;
            assert_eq!(one.to_scalar::<f32>()?, 30.0);
        }
        Ok(())
    }
}
