//! Parameters by name, drawn from a seed or loaded from a checkpoint, sorted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use vit_random::{Random, Site, Stream};

/// The variables of a model, in name order.
///
/// Its `VarBuilder` creates a variable when a name is first requested; another builder returns the same variables. Each
/// is drawn at the site of its name, so layer order and other parameters do not change its values. Clones share the
/// variables.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::Init;
/// use vit_layers::Parameters;
///
/// # fn main() -> candle_core::Result<()> {
/// let parameters = Parameters::seeded(42);
/// let vb = parameters.builder(DType::F32, &Device::Cpu);
/// let scale = vb.pp("norm").get_with_hints(8, "weight", Init::Const(1.0))?;
/// assert_eq!(scale.dims(), [8]);
/// assert_eq!(parameters.sorted()[0].0, "norm.weight");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The source of new variables. `None` for a checkpoint, which allows no new ones.
    random: Option<Random>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    variables: BTreeMap<String, Var>,
    /// The checkpoint's tensors that no layer has requested yet.
    unused: BTreeMap<String, Tensor>,
    /// Paths of parameters or layers that several layers may request.
    shared: Vec<String>,
}

impl Parameters {
    /// Starts without variables; each is drawn from this seed when requested.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { random: Some(Random::new(seed)), state: Arc::default() }
    }

    /// Loads a checkpoint: each variable starts as the tensor of its name, in the builder's dtype and on its device.
    ///
    /// A layer that requests a missing name or another shape fails with the name.
    /// [`expect_all_used`](Self::expect_all_used) names tensors that no layer requested.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use vit_layers::{LayerNorm, Parameters};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let tensor = Tensor::ones(8, DType::F32, &Device::Cpu)?;
    /// let checkpoint = ["norm.weight", "norm.bias"].map(|name| (name.to_owned(), tensor.clone()));
    /// let parameters = Parameters::from_tensors(checkpoint);
    /// LayerNorm::new(8, 1e-6, &parameters.builder(DType::F32, &Device::Cpu).pp("norm"))?;
    /// parameters.expect_all_used()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        let unused = tensors.into_iter().collect();
        Self { random: None, state: Arc::new(Mutex::new(State { unused, ..State::default() })) }
    }

    /// Draws what the checkpoint lacks from this seed, such as a new head on a trained encoder.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { random: Some(Random::new(seed)), ..self }
    }

    /// Checks that the layers built so far have requested every tensor of the checkpoint.
    ///
    /// # Errors
    /// If not: lists each unused name with its shape.
    pub fn expect_all_used(&self) -> Result<()> {
        let state = self.lock();
        if state.unused.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = state
            .unused
            .iter()
            .map(|(name, tensor)| format!("{name} of shape {:?}", tensor.dims()))
            .collect();
        bail!("checkpoint: expected no parameter that no layer asks for, got {}", names.join(", "))
    }

    /// Lets several layers of one builder share the parameter, or all parameters of the layer, at this path, such as an
    /// embedding whose weight is also the head's.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use vit_layers::{Bias, Linear, Parameters};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let parameters = Parameters::seeded(42);
    /// let vb = parameters.builder(DType::F32, &Device::Cpu);
    /// let encode = Linear::new(8, 8, Bias::Yes, &vb.pp("map"))?;
    /// let again = Linear::new(8, 8, Bias::Yes, &vb.pp("map"));
    /// assert!(again.unwrap_err().to_string().starts_with("parameter map.bias: expected one layer"));
    /// parameters.share("map");
    /// let decode = Linear::new(8, 8, Bias::Yes, &vb.pp("map"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn share(&self, path: &str) {
        self.lock().shared.push(path.to_owned());
    }

    /// A builder for layers that train.
    ///
    /// Two layers that request the same name from one builder are an error unless the name is [shared](Self::share).
    /// Another builder provides all variables again.
    #[must_use]
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let backend = Builder::new(self, TensorKind::Variables);
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// A builder for layers that only evaluate. They share the storage, so they see every update of the variables, and
    /// record nothing for a backward pass.
    #[must_use]
    pub fn detached_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let backend = Builder::new(self, TensorKind::Detached);
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// The variables with their names, sorted by name.
    #[must_use]
    pub fn sorted(&self) -> Vec<(String, Var)> {
        self.lock().variables.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The maps are consistent whenever the lock is free, even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn variable(
        &self,
        shape: &Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Var> {
        let mut state = self.lock();
        let of_shape = |got: &Shape| {
            if got != shape {
                bail!("parameter {name}: expected shape {shape:?}, got {got:?}");
            }
            Ok(())
        };
        if let Some(var) = state.variables.get(name) {
            of_shape(var.shape())?;
            let there = (var.dtype(), var.device().location());
            if there != (dtype, device.location()) {
                let asked = (dtype, device.location());
                bail!("parameter {name}: expected {there:?}, as it was made, got {asked:?}");
            }
            return Ok(var.clone());
        }
        let values = match (state.unused.get(name), self.random) {
            (Some(tensor), _) => {
                of_shape(tensor.shape())?;
                tensor.clone()
            }
            (None, Some(random)) => {
                let values = draw(shape, init, &mut random.stream(Site::named(name), 0));
                Tensor::from_vec(values, shape, &Device::Cpu)?
            }
            (None, None) => {
                bail!("parameter {name}: expected shape {shape:?}, the checkpoint has no such name")
            }
        };
        // A variable with its own copy of the tensor.
        let var = Var::from_tensor(&values.to_dtype(dtype)?.to_device(device)?.detach())?;
        state.unused.remove(name);
        state.variables.insert(name.to_owned(), var.clone());
        Ok(var)
    }
}

/// Kind of tensor that a builder returns.
#[derive(Clone, Copy)]
enum TensorKind {
    Variables,
    Detached,
}

struct Builder {
    parameters: Parameters,
    kind: TensorKind,
    /// Names that layers have requested.
    given: Mutex<BTreeSet<String>>,
}

impl Builder {
    fn new(parameters: &Parameters, kind: TensorKind) -> Self {
        Self { parameters: parameters.clone(), kind, given: Mutex::default() }
    }

    fn check_given_once(&self, name: &str) -> Result<()> {
        let first = {
            // The set is consistent whenever the lock is free, even after a panic elsewhere.
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.insert(name.to_owned())
        };
        let shared = |path: &String| {
            name.strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if !first && !self.parameters.lock().shared.iter().any(shared) {
            bail!(
                "parameter {name}: expected one layer to ask for it, got a second\n  hint: give each layer a path of its \
                 own, vb.pp(\"name\"); for shared weights, call Parameters::share(\"{name}\"); for a second model of the same \
                 weights, take another Parameters::builder"
            );
        }
        Ok(())
    }

    fn give(&self, var: &Var) -> Tensor {
        match self.kind {
            TensorKind::Variables => var.as_tensor().clone(),
            TensorKind::Detached => var.as_detached_tensor(),
        }
    }
}

impl SimpleBackend for Builder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let var = self.parameters.variable(&shape, name, init, dtype, device)?;
        self.check_given_once(name)?;
        Ok(self.give(&var))
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = {
            let state = self.parameters.lock();
            let made = state.variables.get(name).map(Var::as_tensor);
            made.or_else(|| state.unused.get(name)).map(|tensor| tensor.shape().clone())
        };
        match shape {
            Some(shape) => self.get(shape, name, Init::Const(0.0), dtype, device),
            None => bail!("parameter {name}: expected a shape, since it does not exist yet"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let state = self.parameters.lock();
        state.variables.contains_key(name) || state.unused.contains_key(name)
    }
}

/// The values of a new parameter, drawn in `f64` so that every dtype starts with the same numbers.
fn draw(shape: &Shape, init: Init, stream: &mut Stream) -> Vec<f64> {
    let count = shape.elem_count();
    let uniform =
        |low, high, stream: &mut Stream| (0..count).map(|_| stream.uniform_in(low, high)).collect();
    let normal = |mean: f64, deviation: f64, stream: &mut Stream| {
        (0..count).map(|_| mean + deviation * stream.normal()).collect()
    };
    match init {
        Init::Const(value) => vec![value; count],
        Init::Uniform { lo, up } => uniform(lo, up, stream),
        Init::Randn { mean, stdev } => normal(mean, stdev, stream),
        Init::Kaiming { dist, fan, non_linearity } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => normal(0.0, deviation, stream),
                NormalOrUniform::Uniform => {
                    let bound = 3.0_f64.sqrt() * deviation;
                    uniform(-bound, bound, stream)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, name: &str, init: Init) -> Result<Vec<f32>> {
        let vb = Parameters::seeded(seed).builder(DType::F32, &Device::Cpu);
        vb.get_with_hints((100, 100), name, init)?.flatten_all()?.to_vec1()
    }

    #[test]
    fn initial_values_depend_on_seed_and_name_only() -> Result<()> {
        let init = Init::Uniform { lo: -0.5, up: 0.5 };
        let first = values(1, "a", init)?;
        assert_eq!(first, values(1, "a", init)?);
        assert_ne!(first, values(2, "a", init)?);
        assert_ne!(first, values(1, "b", init)?);
        assert!(first.iter().all(|x| (-0.5..0.5).contains(x)));
        Ok(())
    }

    #[test]
    fn kaiming_deviation_matches_its_fan() -> Result<()> {
        for init in
            [candle_nn::init::DEFAULT_KAIMING_NORMAL, candle_nn::init::DEFAULT_KAIMING_UNIFORM]
        {
            let values = values(1, "a", init)?;
            let variance = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
            // Gain √2 over a fan of 100; ten thousand draws leave about one per cent.
            assert!((variance / 0.02 - 1.0).abs() < 0.08, "{variance}");
        }
        Ok(())
    }

    #[test]
    fn detached_layers_see_later_updates() -> Result<()> {
        let parameters = Parameters::seeded(1);
        let trained = parameters.builder(DType::F32, &Device::Cpu);
        trained.get_with_hints(3, "w", Init::Const(0.0))?;
        let detached = parameters.detached_builder(DType::F32, &Device::Cpu).get(3, "w")?;
        let (_, var) = &parameters.sorted()[0];
        var.set(&Tensor::new(&[1.0_f32, 2.0, 3.0], &Device::Cpu)?)?;
        assert_eq!(detached.to_vec1::<f32>()?, [1.0, 2.0, 3.0]);
        assert!(!detached.track_op());
        Ok(())
    }

    #[test]
    fn checkpoint_loads_and_missing_or_extra_names_are_errors() -> Result<()> {
        let tensors = || -> Result<_> {
            let ones = Tensor::ones(3, DType::F64, &Device::Cpu)?;
            Ok(["a", "b"].map(|name| (name.to_owned(), ones.clone())))
        };
        let parameters = Parameters::from_tensors(tensors()?);
        let vb = parameters.builder(DType::F32, &Device::Cpu);
        let init = Init::Const(0.0);
        assert_eq!(vb.get_with_hints(3, "a", init)?.to_vec1::<f32>()?, [1.0; 3]);
        let unused = parameters.expect_all_used().unwrap_err().to_string();
        assert!(unused.contains("no layer asks for, got b of shape [3]"), "{unused}");
        let shape = vb.get_with_hints(4, "b", init).unwrap_err().to_string();
        assert!(shape.contains("parameter b: expected shape [4], got [3]"), "{shape}");
        let lacking = vb.get_with_hints(2, "c", init).unwrap_err().to_string();
        assert!(
            lacking.contains("parameter c: expected shape [2], the checkpoint has"),
            "{lacking}"
        );
        assert_eq!(vb.get_unchecked("b")?.to_vec1::<f32>()?, [1.0; 3]);
        parameters.expect_all_used()?;
        let with_seed = Parameters::from_tensors(tensors()?).with_seed(1);
        let vb = with_seed.builder(DType::F32, &Device::Cpu);
        assert_eq!(vb.get_with_hints(2, "c", init)?.to_vec1::<f32>()?, [0.0; 2]);
        Ok(())
    }

    #[test]
    fn dtype_other_than_the_variables_is_rejected() -> Result<()> {
        let parameters = Parameters::seeded(1);
        parameters.builder(DType::F32, &Device::Cpu).get_with_hints(3, "w", Init::Const(0.0))?;
        let error = parameters.detached_builder(DType::F64, &Device::Cpu).get(3, "w");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("parameter w: expected (F32, Cpu), as it was made"), "{error}");
        Ok(())
    }

    #[test]
    fn second_layer_of_another_shape_is_rejected() -> Result<()> {
        let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
        vb.get_with_hints(3, "w", Init::Const(0.0))?;
        let error = vb.get_with_hints(4, "w", Init::Const(0.0)).unwrap_err().to_string();
        assert!(error.contains("parameter w: expected shape [4], got [3]"), "{error}");
        Ok(())
    }
}
