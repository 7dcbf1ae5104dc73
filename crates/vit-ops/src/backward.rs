//! Backward passes that keep the gradients of parameters out of candle's graph, which adds each one to new zeros.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, TensorId};

use crate::slices;

/// Gradients of variables, each with its variable.
type Collected = HashMap<TensorId, (Tensor, Vec<f32>)>;

thread_local! {
    /// Those of the backward pass that runs on this thread, if it is one of [`backward`]'s.
    static COLLECTED: RefCell<Option<Collected>> = const { RefCell::new(None) };
}

/// The gradients that [`Tensor::backward`] computes, without its zeros and sums for the variables of
/// [`residual_stages`](crate::residual_stages).
///
/// # Errors
/// If candle cannot compute a gradient.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let pass = Pass::begin();
    let mut gradients = loss.backward()?;
    for (variable, gradient) in pass.end().into_values() {
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
            match collected.entry(parameter.id()) {
                Entry::Vacant(entry) => {
                    entry.insert((parameter.clone(), gradient));
                }
                Entry::Occupied(mut entry) => {
                    slices::add_scaled(&mut entry.get_mut().1, 1.0, &gradient);
                }
            }
            Ok(None)
        }
        _ => slices::gradient(gradient, parameter),
    })
}

/// A backward pass on this thread. While it waits for other threads, another one may begin and end.
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
