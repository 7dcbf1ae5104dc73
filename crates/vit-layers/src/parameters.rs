//! Parameters by name: drawn from a seed, kept sorted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use vit_random::{Random, Site, Stream};

/// The variables of a model, in the order of their names.
///
/// A `VarBuilder` made from it creates a variable the first time a name is asked for, and gives the same
/// variable from then on. Each is drawn at a site of its own name, so neither the order of layers nor other
/// parameters change its values. Clones share the variables.
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
    random: Random,
    variables: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Parameters {
    /// No variables yet; each will be drawn from this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { random: Random::new(seed), variables: Arc::default() }
    }

    /// Gives the variables to layers, which then train.
    #[must_use]
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let backend = Builder { parameters: self.clone(), gives: Gives::Variables };
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// Gives the same storage to layers that only evaluate: they see every later change of the variables,
    /// and their forward pass records nothing for a backward pass.
    #[must_use]
    pub fn detached_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let backend = Builder { parameters: self.clone(), gives: Gives::Detached };
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// The variables with their names, sorted.
    #[must_use]
    pub fn sorted(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        // The map is whole whenever the lock is free, also after a panic elsewhere.
        self.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn variable(
        &self,
        shape: &Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Var> {
        let mut variables = self.lock();
        if let Some(var) = variables.get(name) {
            if var.shape() != shape {
                bail!("parameter {name}: expected shape {shape:?}, got {:?}", var.shape());
            }
            return Ok(var.clone());
        }
        let values = draw(shape, init, &mut self.random.stream(Site::named(name), 0));
        let values = Tensor::from_vec(values, shape, &Device::Cpu)?;
        let var = Var::from_tensor(&values.to_dtype(dtype)?.to_device(device)?)?;
        variables.insert(name.to_owned(), var.clone());
        Ok(var)
    }
}

/// What a builder hands to layers.
#[derive(Clone, Copy)]
enum Gives {
    Variables,
    Detached,
}

struct Builder {
    parameters: Parameters,
    gives: Gives,
}

impl Builder {
    fn give(&self, var: &Var) -> Tensor {
        match self.gives {
            Gives::Variables => var.as_tensor().clone(),
            Gives::Detached => var.as_detached_tensor(),
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
        Ok(self.give(&self.parameters.variable(&shape, name, init, dtype, device)?))
    }

    fn get_unchecked(&self, name: &str, _dtype: DType, _device: &Device) -> Result<Tensor> {
        match self.parameters.lock().get(name) {
            Some(var) => Ok(self.give(var)),
            None => bail!("parameter {name}: expected a shape, since it does not exist yet"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.parameters.lock().contains_key(name)
    }
}

/// The values of a new parameter, drawn in `f64` so that every dtype begins with the same numbers.
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
    fn values_depend_on_seed_and_name_alone() -> Result<()> {
        let init = Init::Uniform { lo: -0.5, up: 0.5 };
        let first = values(1, "a", init)?;
        assert_eq!(first, values(1, "a", init)?);
        assert_ne!(first, values(2, "a", init)?);
        assert_ne!(first, values(1, "b", init)?);
        assert!(first.iter().all(|x| (-0.5..0.5).contains(x)));
        Ok(())
    }

    #[test]
    fn kaiming_has_the_deviation_of_its_fan() -> Result<()> {
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
    fn detached_layers_see_later_changes() -> Result<()> {
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
    fn a_second_layer_of_another_shape_is_refused() -> Result<()> {
        let vb = Parameters::seeded(1).builder(DType::F32, &Device::Cpu);
        vb.get_with_hints(3, "w", Init::Const(0.0))?;
        let error = vb.get_with_hints(4, "w", Init::Const(0.0)).unwrap_err().to_string();
        assert!(error.contains("parameter w: expected shape [4], got [3]"), "{error}");
        Ok(())
    }
}
