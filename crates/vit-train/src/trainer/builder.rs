//! Building a trainer from its parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};
use candle_nn::VarBuilder;

use super::Trainer;
use crate::averages::Averages;
use crate::backend::{StepBackend, Task};
use crate::cpu::CpuBackend;
use crate::model::{Built, GroupOf};
use crate::threads::thread_pool;
use crate::{
    Alone, Collective, CrossEntropy, Error, Group, Loss, Model, NamedVars, TrainConfig, model,
};

/// Builds a trainer: set loss, parameter groups and threads, then give it the model.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use vit_train::{CrossEntropy, Group, Mode, OptimizerConfig, TrainConfig, Trainer};
///
/// # fn main() -> Result<(), vit_train::Error> {
/// let weight = Var::new(&[[0.1_f32], [-0.2]], &Device::Cpu)?; // (classes, inputs)
/// let tracked = weight.as_tensor().clone();
/// let model = move |xs: &Tensor, _mode: Mode| vit_ops::linear(xs, &tracked, None);
/// let trainer = Trainer::builder(TrainConfig::new(3, OptimizerConfig::sgd(0.1, 0.9)))
///     .threads(2)
///     .loss(CrossEntropy::smoothed(0.1))
///     .groups(|_, _| Group::new().with_lr_scale(0.5))
///     .model(model, vec![("weight".to_owned(), weight)])?;
/// # let _ = trainer;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct TrainerBuilder {
    config: TrainConfig,
    threads: usize,
    loss: Option<Arc<dyn Loss>>,
    groups: Arc<GroupOf>,
    records_steps: bool,
    ranks: Arc<dyn Collective>,
    samples_of_pass: usize,
}

impl Trainer {
    /// Starts building a trainer.
    pub fn builder(config: TrainConfig) -> TrainerBuilder {
        TrainerBuilder::new(config)
    }

    /// A trainer of `parameters`, which `model` uses, on this many threads. On a GPU, opened with
    /// `vit_ops::cuda::open`, it runs on the thread that calls [`run`](Self::run). [`builder`](Self::builder) offers
    /// more settings.
    ///
    /// # Errors
    /// If there are no parameters, a setting is out of range, or the threads cannot be started.
    pub fn new(
        config: TrainConfig,
        model: impl Model + 'static,
        parameters: NamedVars,
        threads: usize,
    ) -> Result<Self, Error> {
        Self::builder(config).threads(threads).model(model, parameters)
    }
}

impl TrainerBuilder {
    fn new(config: TrainConfig) -> Self {
        let groups: Arc<GroupOf> = Arc::new(|_: &str, _: &Tensor| Group::new());
        let ranks = Arc::new(Alone);
        Self {
            config,
            threads: 1,
            loss: None,
            groups,
            records_steps: false,
            ranks,
            samples_of_pass: 0,
        }
    }

    /// Number of threads that compute shards, at least one. Default: 1. Does not change any bit.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Sets the loss. Default: [`CrossEntropy`] with the configuration's `label_smoothing`.
    pub fn loss(self, loss: impl Loss + 'static) -> Self {
        Self { loss: Some(Arc::new(loss)), ..self }
    }

    /// Trains on several ranks, at most one for each of the [shards of a step](TrainConfig::shards_of_step). Default:
    /// one process. Does not change any bit.
    ///
    /// All ranks need the same configuration, model, parameters and data. Only rank 0's [`Observer`](crate::Observer)
    /// steers the run and receives states to save. A rank that fails with an error of its own must
    /// [`abort`](Collective::abort) the others.
    pub fn ranks(self, ranks: Arc<dyn Collective>) -> Self {
        Self { ranks, ..self }
    }

    /// Chooses each parameter's group from its name and value. Default: all in [`Group::new`].
    pub fn groups(self, groups: impl Fn(&str, &Tensor) -> Group + Send + Sync + 'static) -> Self {
        Self { groups: Arc::new(groups), ..self }
    }

    /// On a CPU, computes consecutive shards of a thread in one pass of up to this many samples. A small model then trains
    /// with many shards almost as fast as with few. Shards of one sample always have their own pass. Default: all have.
    ///
    /// Does not change any bit if
    /// - model and loss compute each sample from that sample alone, with the same bits in any batch of two or more;
    /// - each trained parameter is used once, by an operation of `vit-ops` that
    ///   [sums in pieces](vit_ops::backward_in_pieces), as in the layers of `vit-layers`;
    /// - [`Data::train_batch`](crate::Data::train_batch) gives each sample the same inputs and targets in any batch.
    pub fn join_shards(self, samples: usize) -> Self {
        Self { samples_of_pass: samples, ..self }
    }

    /// On a GPU, records the first step as a CUDA graph and replays it with one launch a step, which trains a small
    /// model many times as fast. Without it, and on a CPU, each step calls the model.
    ///
    /// # Safety
    /// In training, the model and the loss
    /// - compute only from their arguments and the trained parameters, and launch the same kernels each time;
    /// - keep every other tensor that they read for as long as the trainer lives, and never replace it.
    ///
    /// While a trainer runs, no other thread uses its device, and nothing else sets its parameters.
    #[allow(unsafe_code, reason = "a recorded graph needs its inputs to stay at their addresses")]
    pub unsafe fn record_steps(self) -> Self {
        Self { records_steps: true, ..self }
    }

    /// Builds the model from the variables of `vb` and trains all of them.
    ///
    /// `new` is called twice, for two views of the same variables: the evaluation view records no graph, and the
    /// training view computes no backward pass for [frozen](Group::frozen) parameters.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{Init, VarBuilder};
    /// use vit_train::{Group, Mode, OptimizerConfig, TrainConfig, Trainer};
    /// # use std::{collections::BTreeMap, sync::Mutex};
    /// # use candle_core::{Result, Shape, Var};
    /// # use candle_nn::var_builder::SimpleBackend;
    /// # #[derive(Default)]
    /// # struct Zeros(Mutex<BTreeMap<String, Var>>);
    /// # impl SimpleBackend for Zeros {
    /// #     fn get(&self, s: Shape, name: &str, _: Init, t: DType, d: &Device) -> Result<Tensor> {
    /// #         let mut vars = self.0.lock().unwrap();
    /// #         if !vars.contains_key(name) { vars.insert(name.to_owned(), Var::zeros(s, t, d)?); }
    /// #         Ok(vars[name].as_tensor().clone())
    /// #     }
    /// #     fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
    /// #         Ok(self.0.lock().unwrap()[name].as_tensor().clone())
    /// #     }
    /// #     fn contains_tensor(&self, name: &str) -> bool { self.0.lock().unwrap().contains_key(name) }
    /// # }
    /// # fn variables() -> VarBuilder<'static> {
    /// #     VarBuilder::from_backend(Box::new(Zeros::default()), DType::F32, Device::Cpu)
    /// # }
    ///
    /// # fn main() -> std::result::Result<(), vit_train::Error> {
    /// // For example `vit_layers::Parameters::seeded(42).builder(DType::F32, &Device::Cpu)`.
    /// let vb: VarBuilder<'static> = variables();
    /// let trainer = Trainer::builder(TrainConfig::new(3, OptimizerConfig::adam(1e-3)))
    ///     .groups(|name, _| if name.starts_with("trunk.") { Group::frozen() } else { Group::new() })
    ///     .build(&vb, |vb| {
    ///         let trunk = vb.pp("trunk").get_with_hints((8, 4), "weight", Init::Const(0.1))?;
    ///         let head = vb.pp("head").get_with_hints((2, 8), "weight", Init::Const(0.1))?;
    ///         Ok(move |xs: &Tensor, _mode: Mode| {
    ///             vit_ops::linear(&vit_ops::linear(xs, &trunk, None)?.relu()?, &head, None)
    ///         })
    ///     })?;
    /// assert_eq!(trainer.weights().len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the model cannot be built, a parameter is not a variable, there is nothing to train, a setting is out of
    /// range, or the threads cannot be started.
    pub fn build<M: Model + 'static>(
        self,
        vb: &VarBuilder<'static>,
        new: impl Fn(VarBuilder<'static>) -> TensorResult<M>,
    ) -> Result<Trainer, Error> {
        self.config.check()?;
        let built = model::build(vb, &self.groups, new)?;
        self.finish(built)
    }

    /// Trains these parameters, which `model` uses. Unlike with [`build`](Self::build), evaluation records a graph, and
    /// frozen parameters cost a backward pass, unless the model avoids both itself.
    ///
    /// # Errors
    /// If there is nothing to train, a setting is out of range, or the threads cannot be started.
    pub fn model(
        self,
        model: impl Model + 'static,
        mut parameters: NamedVars,
    ) -> Result<Trainer, Error> {
        self.config.check()?;
        parameters.sort_by(|(name, _), (other, _)| name.cmp(other));
        let groups = parameters.iter().map(|(name, var)| (self.groups)(name, var)).collect();
        self.finish(Built { model: Arc::new(model), parameters, groups })
    }

    fn finish(self, built: Built) -> Result<Trainer, Error> {
        let Self { config, threads, loss, records_steps, ranks, samples_of_pass, .. } = self;
        let (size, shards) = (ranks.size(), config.shards_of_step());
        if size > shards {
            let expected = format!("at most {shards} ranks, one for each shard of a step");
            return Err(Error::Ranks { expected, got: size.to_string() });
        }
        let Built { model, parameters, groups } = built;
        groups.iter().try_for_each(Group::check)?;
        let is_trained = groups.iter().map(|group| !group.frozen);
        let (trained, frozen): (Vec<_>, Vec<_>) =
            parameters.iter().cloned().zip(is_trained).partition(|(_, is_trained)| *is_trained);
        let [trained, frozen]: [NamedVars; 2] =
            [trained, frozen].map(|of| of.into_iter().map(|(named, _)| named).collect());
        if trained.is_empty() {
            return Err(Error::NoParameters { frozen: frozen.len() });
        }
        let averages = config.ema.map(|decay| Averages::new(decay, &trained)).transpose()?;
        let averaged: BTreeMap<_, _> =
            averages.iter().flat_map(Averages::parameters).map(|(name, var)| (name, var)).collect();
        let weights = parameters.iter().map(|(name, var)| {
            (name.clone(), averaged.get(name).map_or_else(|| var.clone(), |&var| var.clone()))
        });
        let weights = weights.collect();
        let loss = loss.unwrap_or_else(|| Arc::new(CrossEntropy::smoothed(config.label_smoothing)));
        let groups = groups.into_iter().filter(|group| !group.frozen).collect();
        let task =
            Task { config, model, loss, trained, groups, frozen, averages, ranks, samples_of_pass };
        let backend = backend(&task, records_steps)?;
        let threads = Arc::new(thread_pool(threads)?);
        Ok(Trainer {
            task,
            backend,
            parameters,
            weights,
            threads,
            step: 0,
            resumed: None,
            steps: 0,
        })
    }
}

/// The backend for the parameters' device.
fn backend(task: &Task, records_steps: bool) -> Result<Box<dyn StepBackend>, Error> {
    #[cfg(feature = "cuda")]
    if crate::gpu::GpuBackend::suits(task) && task.ranks.size() == 1 {
        return Ok(Box::new(crate::gpu::GpuBackend::new(task, records_steps)?));
    }
    let _ = records_steps;
    Ok(Box::new(CpuBackend::new(task)?))
}
