//! Backward passes that keep the gradients of parameters out of candle's graph, which adds each one to new zeros.

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};

use crate::{pieces, slices};

/// Gradients of variables, each with its variable.
type Collected = Vec<(Tensor, Vec<f32>)>;

thread_local! {
    /// The gradients of the innermost call of [`backward`] on this thread.
    static COLLECTED: RefCell<Option<Collected>> = const { RefCell::new(None) };
}

/// Computes the gradients of [`Tensor::backward`]. candle adds each one to zeros; this does not, for the variables of an
/// encoder.
///
/// A custom operation whose own backward pass calls `Tensor::backward`, for example to compute activations again, calls
/// this function instead. The gradients of an encoder's variables would otherwise go to the outer call alone.
///
/// # Errors
/// If candle cannot compute a gradient.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let pass = Pass::begin();
    let mut gradients = loss.backward()?;
    for (variable, gradient) in pass.end() {
        let gradient = Tensor::from_vec(gradient, variable.shape(), variable.device())?;
        let gradient = match gradients.get(&variable) {
            Some(elsewhere) => (elsewhere + gradient)?,
            None => gradient,
        };
        gradients.insert(&variable, gradient);
    }
    Ok(gradients)
}

/// The gradient of an operation's parameter, or `None` if it is collected.
pub(crate) fn of_parameter(parameter: &Tensor, gradient: Vec<f32>) -> Result<Option<Tensor>> {
    COLLECTED.with_borrow_mut(|collected| match collected {
        Some(collected) if parameter.is_variable() => {
            let known = collected.iter_mut().find(|(known, _)| known.id() == parameter.id());
            match known {
                Some((_, sum)) => {
                    pieces::refuse("a parameter of two operations");
                    slices::add_scaled(sum, 1.0, &gradient);
                }
                None => collected.push((parameter.clone(), gradient)),
            }
            Ok(None)
        }
        _ => slices::gradient(gradient, parameter),
    })
}

/// A call of [`backward`] on this thread, which may contain another one.
struct Pass {
    outer: Option<Collected>,
}

impl Pass {
    fn begin() -> Self {
        Self { outer: COLLECTED.replace(Some(Collected::new())) }
    }

    fn end(self) -> Collected {
        COLLECTED.take().unwrap_or_default()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        COLLECTED.set(self.outer.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensors;
    use crate::{Norm, Stage, residual_stages};
    use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Var, bail};

    /// Twice its input; its backward pass contains another one, or fails.
    struct Twice(Option<Tensor>);

    impl CustomOp1 for Twice {
        fn name(&self) -> &'static str {
            "twice"
        }

        fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let twice = slices::of_storage(xs, layout)?.iter().map(|x| 2.0 * x).collect();
            slices::output(twice, layout.shape().clone())
        }

        fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
            let Some(inner) = &self.0 else { bail!("expected to fail") };
            backward(inner)?;
            (grad * 2.0).map(Some)
        }
    }

    /// Two norms with the same parameters.
    fn encoder(xs: &Tensor, [weight, bias]: [&Tensor; 2]) -> Result<Tensor> {
        let norm = || Stage::Norm(Norm { weight, bias, eps: 1e-5 });
        residual_stages(xs, &[norm(), norm()], None)
    }

    #[test]
    fn gradients_equal_candles_also_around_another_pass_and_after_a_failure() -> Result<()> {
        let [xs, weight, bias] = tensors(&[&[2, 3, 4], &[4], &[4]])?;
        let [xs, weight, bias] = [xs, weight, bias].map(|values| Var::from_tensor(&values));
        let (xs, weight, bias) = (xs?, weight?, bias?);
        let ys = encoder(&xs, [&weight, &bias])?;
        let other = (encoder(&xs, [&weight, &bias])?.sin()? * 3.0)?.sum_all()?;
        let loss = |op| -> Result<Tensor> {
            let twice = ys.apply_op1(op)?;
            // The bias is used outside the encoder too.
            twice.cos()?.sum_all()? + bias.as_tensor().sqr()?.sum_all()?
        };
        backward(&loss(Twice(None))?).expect_err("the operation fails");
        let loss = loss(Twice(Some(other)))?;
        let (got, want) = (backward(&loss)?, loss.backward()?);
        for of in [&xs, &weight, &bias] {
            let [got, want] = [&got, &want].map(|all| all.get(of).expect("a gradient"));
            let difference = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < 1e-6, "{got} {want}");
        }
        Ok(())
    }
}
