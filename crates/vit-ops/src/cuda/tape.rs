//! Records the operations of a forward pass and computes gradients without candle's backward pass.
//!
//! candle's starts every gradient with zeros and adds to them: two GPU kernels per input of each operation, half of all
//! kernels of a small model's step.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor, Var};

use super::launch::{device_of, held};

thread_local! {
    /// This thread's recorded operations; `None` if it is not recording.
    static RECORDING: RefCell<Option<Vec<Entry>>> = const { RefCell::new(None) };
}

/// The operations of this module in a forward pass.
pub struct Tape {
    entries: Vec<Entry>,
}

/// A recorded operation.
struct Entry {
    inputs: Vec<Tensor>,
    output: Tensor,
    operation: Operation,
}

#[derive(Clone)]
enum Operation {
    One(Arc<Box<dyn CustomOp1 + Send + Sync>>),
    Two(Arc<Box<dyn CustomOp2 + Send + Sync>>),
    Three(Arc<Box<dyn CustomOp3 + Send + Sync>>),
}

pub(super) fn apply1(xs: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp1 + Send + Sync>> = Arc::new(Box::new(op));
    let output = xs.apply_op1_arc(Arc::clone(&op))?;
    Ok(record(&[xs], output, Operation::One(op)))
}

pub(super) fn apply2(
    xs: &Tensor,
    ys: &Tensor,
    op: impl CustomOp2 + Send + Sync + 'static,
) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp2 + Send + Sync>> = Arc::new(Box::new(op));
    let output = xs.apply_op2_arc(ys, Arc::clone(&op))?;
    Ok(record(&[xs, ys], output, Operation::Two(op)))
}

pub(super) fn apply3(
    xs: &Tensor,
    ys: &Tensor,
    zs: &Tensor,
    op: impl CustomOp3 + Send + Sync + 'static,
) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp3 + Send + Sync>> = Arc::new(Box::new(op));
    let output = xs.apply_op3_arc(ys, zs, Arc::clone(&op))?;
    Ok(record(&[xs, ys, zs], output, Operation::Three(op)))
}

fn record(inputs: &[&Tensor], output: Tensor, operation: Operation) -> Tensor {
    RECORDING.with_borrow_mut(|recording| {
        if let (Some(entries), true) = (recording, output.track_op()) {
            let inputs = inputs.iter().copied().cloned().collect();
            entries.push(Entry { inputs, output: output.clone(), operation });
        }
    });
    output
}

impl Tape {
    /// Runs a forward pass, and records it.
    ///
    /// # Errors
    /// If the pass fails.
    pub fn of<T, E>(
        forward: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<(T, Self), E> {
        /// Stops recording, even after a panic.
        struct Stop;
        impl Drop for Stop {
            fn drop(&mut self) {
                RECORDING.set(None);
            }
        }
        RECORDING.set(Some(Vec::new()));
        let _stop = Stop;
        let output = forward()?;
        let entries = RECORDING.take().unwrap_or_default();
        Ok((output, Self { entries }))
    }

    /// The gradients of `variables`, like `loss.backward()`. If a gradient must pass an operation of candle's other
    /// than a reshape between recorded ones, candle's backward pass computes them.
    ///
    /// # Errors
    /// If an operation has no gradient.
    pub fn backward<'a>(
        &self,
        loss: &Tensor,
        variables: impl IntoIterator<Item = &'a Var>,
    ) -> Result<GradStore> {
        match self.edges(loss, variables)? {
            Some(edges) => self.gradients(loss, &edges),
            None => loss.backward(),
        }
    }

    /// Whether the recorded operations cover every path to the variables.
    ///
    /// # Errors
    /// If a tensor's storage cannot be read.
    pub fn covers<'a>(
        &self,
        loss: &Tensor,
        variables: impl IntoIterator<Item = &'a Var>,
    ) -> Result<bool> {
        Ok(self.edges(loss, variables)?.is_some())
    }

    /// For each input of each entry, the tensor whose gradient it adds to, if any; `None` overall if an input comes
    /// from elsewhere.
    fn edges<'a>(
        &self,
        loss: &Tensor,
        variables: impl IntoIterator<Item = &'a Var>,
    ) -> Result<Option<Vec<Vec<Option<Tensor>>>>> {
        let mut known = HashSet::new();
        let mut places = HashMap::new();
        for variable in variables {
            known.insert(variable.id());
            if let Some(place) = place(variable)? {
                places.insert(place, variable.as_tensor().clone());
            }
        }
        let mut edges = Vec::new();
        for Entry { inputs, output, .. } in &self.entries {
            let mut of_entry = Vec::new();
            for input in inputs {
                let same_elements =
                    || Ok::<_, candle_core::Error>(place(input)?.and_then(|at| places.get(&at)));
                of_entry.push(if !input.track_op() {
                    None
                } else if known.contains(&input.id()) {
                    Some(input.clone())
                } else if let Some(of) = same_elements()? {
                    Some(of.clone())
                } else {
                    return Ok(None);
                });
            }
            known.insert(output.id());
            if let Some(place) = place(output)? {
                places.insert(place, output.clone());
            }
            edges.push(of_entry);
        }
        Ok(known.contains(&loss.id()).then_some(edges))
    }

    fn gradients(&self, loss: &Tensor, edges: &[Vec<Option<Tensor>>]) -> Result<GradStore> {
        let mut store = GradStore::default();
        store.insert(loss, loss.ones_like()?);
        for (entry, edges) in self.entries.iter().zip(edges).rev() {
            let Some(gradient) = store.remove(&entry.output) else { continue };
            for (of_input, edge) in entry.backward(&gradient)?.into_iter().zip(edges) {
                let (Some(of_input), Some(to)) = (of_input, edge) else { continue };
                let of_input = of_input.reshape(to.shape())?;
                let sum = match store.get(to) {
                    Some(so_far) => (so_far + of_input)?,
                    None => of_input,
                };
                store.insert(to, sum.detach());
            }
        }
        Ok(store)
    }
}

impl Entry {
    fn backward(&self, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (inputs, output) = (&self.inputs, &self.output);
        Ok(match &self.operation {
            Operation::One(op) => vec![op.bwd(&inputs[0], output, gradient)?],
            Operation::Two(op) => {
                let (first, second) = op.bwd(&inputs[0], &inputs[1], output, gradient)?;
                vec![first, second]
            }
            Operation::Three(op) => {
                let (first, second, third) =
                    op.bwd(&inputs[0], &inputs[1], &inputs[2], output, gradient)?;
                vec![first, second, third]
            }
        })
    }
}

/// The address and number of a tensor's elements, if it is contiguous and on the GPU.
fn place(xs: &Tensor) -> Result<Option<(u64, usize)>> {
    if !super::fused(xs) || !xs.is_contiguous() {
        return Ok(None);
    }
    let stream = device_of(xs)?.cuda_stream();
    Ok(Some((held(xs).elements::<f32>()?.device_ptr(&stream).0, xs.elem_count())))
}
