//! The complete state of a run, from which another process continues bit-identically.

use std::collections::BTreeMap;

use candle_core::{Device, Result as TensorResult, Tensor, Var};
use serde::{Deserialize, Serialize};
use vit_files::Digest;

use crate::best::Best;
use crate::sums::Sums;
use crate::{Collective, Error};

/// Variables by name.
pub type NamedVars = Vec<(String, Var)>;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The state of a run between two steps, on the CPU.
#[derive(Clone, Debug)]
pub struct TrainState {
    /// Progress of the run.
    pub progress: RunProgress,
    /// SHA-256 of the order of the epoch's samples, as little-endian `u32`.
    pub order: String,
    /// The parameters, including frozen ones.
    pub parameters: Tensors,
    /// The EMA of the weights if there is one, with frozen parameters unchanged.
    pub averages: Option<Tensors>,
    /// The optimiser's moments of the trained parameters, once a step was taken: for Adam the first and second, for SGD
    /// the momentum.
    pub moments: Vec<Tensors>,
}

/// Progress of a run, and its sums since the last records.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunProgress {
    /// Completed steps.
    pub step: u64,
    /// The epoch of the next step, from 1; after the last epoch, one more.
    pub epoch: u64,
    /// Completed steps of that epoch.
    pub step_of_epoch: u64,
    /// Loss and accuracy over that epoch.
    pub of_epoch: Sums,
    /// Loss and accuracy since the last record.
    pub since_record: Sums,
    /// The best epoch so far on the validation split.
    pub best: Best,
    /// Factor of the schedule's learning rate, set by the observer.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub lr_scale: f64,
}

const fn one() -> f64 {
    1.0
}

const fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl RunProgress {
    /// Progress at the start of a run.
    pub(crate) fn new(step: u64) -> Self {
        let (of_epoch, since_record) = (Sums::default(), Sums::default());
        let best = Best::default();
        Self { step, epoch: 1, step_of_epoch: 0, of_epoch, since_record, best, lr_scale: 1.0 }
    }

    /// Progress at the start of an epoch, with the best one before it.
    pub(crate) fn before_epoch(&self, epoch: u64, best: Best) -> Self {
        Self { epoch, best, lr_scale: self.lr_scale, ..Self::new(self.step) }
    }
}

/// A state's names and shapes, without its numbers.
#[derive(Serialize, Deserialize)]
struct Outline {
    progress: RunProgress,
    order: String,
    /// Name and dimensions of each tensor, for parameters, averages and each kind of moment.
    parameters: Vec<(String, Vec<usize>)>,
    averages: Option<Vec<(String, Vec<usize>)>>,
    moments: Vec<Vec<(String, Vec<usize>)>>,
}

impl TrainState {
    /// Sends the state of rank 0, of `f32` tensors, to every rank.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn broadcast(state: Option<&Self>, ranks: &dyn Collective) -> Result<Option<Self>, Error> {
        let outline = |tensors: &Tensors| -> Vec<_> {
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
        };
        let text = state.map(|state| Outline {
            progress: state.progress,
            order: state.order.clone(),
            parameters: outline(&state.parameters),
            averages: state.averages.as_ref().map(outline),
            moments: state.moments.iter().map(outline).collect(),
        });
        let text = serde_json::to_vec(&text).expect("a state is plain data");
        let text = ranks.broadcast_bytes(&text);
        let known: Option<Outline> = serde_json::from_slice(&text).expect("as rank 0 wrote it");
        let Some(Outline { progress, order, parameters, averages, moments }) = known else {
            return Ok(None);
        };
        let tensors = |outline: Vec<(String, Vec<usize>)>, of: Option<&Tensors>| {
            let each = outline.into_iter().map(|(name, dims)| {
                let count = dims.iter().product();
                let mut words = match of {
                    Some(of) => bits(&of[&name])?,
                    None => vec![0; count],
                };
                ranks.broadcast(&mut words);
                let values: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
                Ok((name, Tensor::from_vec(values, dims, &Device::Cpu)?))
            });
            each.collect::<TensorResult<Tensors>>()
        };
        let parameters = tensors(parameters, state.map(|state| &state.parameters))?;
        let averages = averages
            .map(|outline| tensors(outline, state.and_then(|state| state.averages.as_ref())))
            .transpose()?;
        let moments = moments.into_iter().enumerate();
        let moments = moments
            .map(|(kind, outline)| tensors(outline, state.map(|state| &state.moments[kind])));
        let moments = moments.collect::<TensorResult<_>>()?;
        Ok(Some(Self { progress, order, parameters, averages, moments }))
    }

    /// The weights to evaluate and save: the EMA if there is one.
    #[must_use]
    pub fn weights(&self) -> &Tensors {
        self.averages.as_ref().unwrap_or(&self.parameters)
    }
}

/// The bits of an `f32` tensor.
fn bits(tensor: &Tensor) -> TensorResult<Vec<u32>> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}

/// Digest of an epoch's order of samples, to recognise the same data.
pub(crate) fn digest_of_order(order: &[u32]) -> String {
    let bytes: Vec<u8> = order.iter().flat_map(|index| index.to_le_bytes()).collect();
    Digest::of_bytes(&bytes).to_string()
}

/// Copies of the variables' values.
pub(crate) fn values(parameters: &NamedVars) -> TensorResult<Tensors> {
    let value = |var: &Var| {
        let tensor = var.as_detached_tensor();
        // `to_device` copies too, but only from another device.
        if tensor.device().is_cpu() { tensor.copy() } else { tensor.to_device(&Device::Cpu) }
    };
    parameters.iter().map(|(name, var)| Ok((name.clone(), value(var)?))).collect()
}

/// The tensor of each parameter, in the parameters' order.
pub(crate) fn in_order<'a>(
    tensors: &'a Tensors,
    parameters: &NamedVars,
    what: &str,
) -> Result<Vec<&'a Tensor>, Error> {
    let state = |expected: String, got: String| Error::State { expected, got };
    if let Some(name) =
        tensors.keys().find(|&name| parameters.iter().all(|(known, _)| known != name))
    {
        return Err(state(format!("no {what} {name}"), "one".to_owned()));
    }
    let each = parameters.iter().map(|(name, var)| {
        let expected = |shape| format!("{what} {name} of shape {shape:?}");
        match tensors.get(name) {
            None => Err(state(expected(var.shape()), "none".to_owned())),
            Some(tensor) if tensor.shape() != var.shape() => {
                Err(state(expected(var.shape()), format!("{:?}", tensor.shape())))
            }
            Some(tensor) => Ok(tensor),
        }
    });
    each.collect()
}

/// Sets the variables to these values.
pub(crate) fn set(parameters: &NamedVars, tensors: &Tensors, what: &str) -> Result<(), Error> {
    for ((_, var), tensor) in parameters.iter().zip(in_order(tensors, parameters, what)?) {
        var.set(&tensor.to_dtype(var.dtype())?.to_device(var.device())?)?;
    }
    Ok(())
}
