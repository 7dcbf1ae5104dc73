//! Trainable models: functions from inputs to outputs, given whole or built from a `VarBuilder`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use vit_ops::Mode;

use crate::{Group, NamedVars};

/// A model: a function from inputs to outputs.
///
/// Implemented for every closure `|inputs: &Tensor, mode: Mode| -> Result<Tensor>`; write out both argument types. A
/// struct implements it itself:
///
/// ```
/// use candle_core::{DType, Device, Result, Tensor};
/// use candle_nn::{Init, VarBuilder};
/// use vit_train::{Mode, Model};
///
/// /// `y = x w`
/// struct Line {
///     weight: Tensor,
/// }
///
/// impl Line {
///     fn new(vb: &VarBuilder) -> Result<Self> {
///         Ok(Self { weight: vb.get_with_hints((1, 2), "weight", Init::Const(0.5))? })
///     }
/// }
///
/// impl Model for Line {
///     fn forward(&self, inputs: &Tensor, _mode: Mode) -> Result<Tensor> {
///         inputs.matmul(&self.weight) // (batch, 2)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
/// let outputs = Line::new(&vb)?.forward(&Tensor::ones((3, 1), DType::F32, &Device::Cpu)?, Mode::Eval)?;
/// assert_eq!(outputs.dims(), [3, 2]);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model that can be trained",
    label = "expected a `Model`",
    note = "implement `vit_train::Model`, or pass a closure with both argument types: `|inputs: &Tensor, mode: Mode| ...`",
    note = "a model is `Send + Sync`: shards of a batch call it from several threads"
)]
pub trait Model: Send + Sync {
    /// Computes outputs. In [`Mode::Train`], dropout and the like draw from the mode's random source.
    ///
    /// # Shapes
    /// `inputs` (batch, ...) -> (batch, ...)
    ///
    /// # Errors
    /// If the inputs have another shape, or a tensor operation fails.
    fn forward(&self, inputs: &Tensor, mode: Mode) -> Result<Tensor>;
}

impl<F: Fn(&Tensor, Mode) -> Result<Tensor> + Send + Sync> Model for F {
    fn forward(&self, inputs: &Tensor, mode: Mode) -> Result<Tensor> {
        self(inputs, mode)
    }
}

impl<M: Model + ?Sized> Model for Arc<M> {
    fn forward(&self, inputs: &Tensor, mode: Mode) -> Result<Tensor> {
        (**self).forward(inputs, mode)
    }
}

/// Chooses a parameter's group from its name and value.
pub(crate) type GroupOf = dyn Fn(&str, &Tensor) -> Group + Send + Sync;

/// A model and its variables, sorted by name, each with its group.
pub(crate) struct Built {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) parameters: NamedVars,
    pub(crate) groups: Vec<Group>,
}

/// Two views of the same parameters, which share their storage.
struct Views<M> {
    /// Records the graph for the backward pass, except of frozen parameters.
    training: M,
    /// Records no graph.
    evaluation: M,
}

impl<M: Model> Model for Views<M> {
    fn forward(&self, inputs: &Tensor, mode: Mode) -> Result<Tensor> {
        match mode {
            Mode::Train(_) => self.training.forward(inputs, mode),
            Mode::Eval => self.evaluation.forward(inputs, mode),
        }
    }
}

/// Builds both views of a model from the variables of `vb`.
pub(crate) fn build<M: Model + 'static>(
    vb: &VarBuilder<'static>,
    groups: &Arc<GroupOf>,
    new: impl Fn(VarBuilder<'static>) -> Result<M>,
) -> Result<Built> {
    let found = Arc::default();
    let view = |detaches: Detaches| {
        let source = Source {
            variables: vb.root(),
            groups: Arc::clone(groups),
            found: Arc::clone(&found),
            detaches,
        };
        let view = VarBuilder::from_backend(Box::new(source), vb.dtype(), vb.device().clone());
        let prefix = vb.prefix();
        new(if prefix.is_empty() { view } else { view.pp(prefix) })
    };
    let model = Views { training: view(Detaches::Frozen)?, evaluation: view(Detaches::All)? };
    let (parameters, groups) = lock(&found)
        .iter()
        .map(|(name, (var, group))| ((name.clone(), var.clone()), *group))
        .unzip();
    Ok(Built { model: Arc::new(model), parameters, groups })
}

/// The parameters that a view detaches from the graph.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detaches {
    Frozen,
    All,
}

type Found = Mutex<BTreeMap<String, (Var, Group)>>;

/// Passes on the variables of another `VarBuilder`, and records them.
struct Source {
    variables: VarBuilder<'static>,
    groups: Arc<GroupOf>,
    found: Arc<Found>,
    detaches: Detaches,
}

impl Source {
    /// The variable that the training view received: `variables` may not return the same one twice.
    fn of_training(&self, name: &str) -> Option<Tensor> {
        match self.detaches {
            Detaches::All => lock(&self.found).get(name).map(|(var, _)| var.as_detached_tensor()),
            Detaches::Frozen => None,
        }
    }

    fn give(&self, name: &str, tensor: Tensor) -> Result<Tensor> {
        if !tensor.is_variable() {
            bail!(
                "parameter {name}: expected a variable, got a constant tensor; build with the VarBuilder of \
                 vit_layers::Parameters, or another whose tensors are variables"
            );
        }
        let mut found = lock(&self.found);
        let group = match found.get(name) {
            Some((_, group)) => *group,
            None => {
                let group = (self.groups)(name, &tensor);
                found.insert(name.to_owned(), (Var::from_tensor(&tensor)?, group));
                group
            }
        };
        let is_detached = self.detaches == Detaches::All || group.frozen;
        Ok(if is_detached { tensor.detach() } else { tensor })
    }
}

impl SimpleBackend for Source {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        _device: &Device,
    ) -> Result<Tensor> {
        match self.of_training(name) {
            Some(tensor) if (tensor.shape(), tensor.dtype()) == (&shape, dtype) => Ok(tensor),
            _ => self.give(name, self.variables.get_with_hints_dtype(shape, name, init, dtype)?),
        }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _device: &Device) -> Result<Tensor> {
        match self.of_training(name) {
            Some(tensor) if tensor.dtype() == dtype => Ok(tensor),
            _ => self.give(name, self.variables.get_unchecked_dtype(name, dtype)?),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.variables.contains_tensor(name)
    }
}

fn lock(found: &Found) -> MutexGuard<'_, BTreeMap<String, (Var, Group)>> {
    // The map is consistent whenever the lock is free, even after a panic elsewhere.
    found.lock().unwrap_or_else(PoisonError::into_inner)
}
