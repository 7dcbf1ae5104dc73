//! All that a run is at some point, so that another process can go on from there to the same bits.

use std::collections::BTreeMap;

use candle_core::{Device, Result as TensorResult, Tensor, Var};
use serde::{Deserialize, Serialize};
use vit_files::Digest;

use crate::best::Best;
use crate::sums::Sums;
use crate::{Error, Parameters};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// A run between two steps, on the CPU.
#[derive(Clone, Debug)]
pub struct TrainState {
    /// How far it has come.
    pub place: Place,
    /// SHA-256 of the order of the epoch's samples, as little-endian `u32`.
    pub order: String,
    /// The parameters that are trained.
    pub parameters: Tensors,
    /// Their moving average, where one is kept.
    pub averages: Option<Tensors>,
    /// First and second moments of the optimiser, after the first step.
    pub moments: Option<[Tensors; 2]>,
}

/// How far a run has come, and what it has told so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Steps taken.
    pub step: u64,
    /// The epoch of the next step, from 1; after the last one it is one more.
    pub epoch: u64,
    /// Steps of that epoch that were taken.
    pub step_of_epoch: u64,
    /// What that epoch has come to.
    pub of_epoch: Sums,
    /// What the steps since the last record have come to.
    pub since_record: Sums,
    /// The best epoch so far, on the validation samples.
    pub best: Best,
}

impl Place {
    /// At the beginning of an epoch, after so many steps.
    pub(crate) fn before_epoch(epoch: u64, step: u64, best: Best) -> Self {
        let (of_epoch, since_record) = (Sums::default(), Sums::default());
        Self { step, epoch, step_of_epoch: 0, of_epoch, since_record, best }
    }
}

impl TrainState {
    /// The parameters that are to be kept: their moving average where there is one.
    #[must_use]
    pub fn kept(&self) -> &Tensors {
        self.averages.as_ref().unwrap_or(&self.parameters)
    }
}

/// The digest that tells whether an epoch has the samples that it had.
pub(crate) fn digest_of_order(order: &[u32]) -> String {
    let bytes: Vec<u8> = order.iter().flat_map(|index| index.to_le_bytes()).collect();
    Digest::of_bytes(&bytes).to_string()
}

/// Copies of what the variables hold.
pub(crate) fn values(parameters: &Parameters) -> TensorResult<Tensors> {
    let value = |var: &Var| {
        let tensor = var.as_detached_tensor();
        // Onto the CPU is a copy already, but from there.
        if tensor.device().is_cpu() { tensor.copy() } else { tensor.to_device(&Device::Cpu) }
    };
    parameters.iter().map(|(name, var)| Ok((name.clone(), value(var)?))).collect()
}

/// One for each parameter, in their order.
pub(crate) fn in_order<'a>(
    tensors: &'a Tensors,
    parameters: &Parameters,
    what: &str,
) -> Result<Vec<&'a Tensor>, Error> {
    let state = |expected: String, got: String| Error::State { expected, got };
    if let Some(name) =
        tensors.keys().find(|&name| parameters.iter().all(|(known, _)| known != name))
    {
        return Err(state(
            format!("nothing of {name} where there is to be {what}"),
            "one".to_owned(),
        ));
    }
    let each = parameters.iter().map(|(name, var)| {
        let expected = |shape| format!("{what} of {name} of shape {shape:?}");
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

/// Gives the variables these values.
pub(crate) fn set(parameters: &Parameters, tensors: &Tensors, what: &str) -> Result<(), Error> {
    for ((_, var), tensor) in parameters.iter().zip(in_order(tensors, parameters, what)?) {
        var.set(&tensor.to_dtype(var.dtype())?.to_device(var.device())?)?;
    }
    Ok(())
}
