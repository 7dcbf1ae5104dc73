//! A fixture: a model's configuration, parameters and batch, with PyTorch's results.

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_layers::{Mode, Random};
use vit_model::{ModelFile, Tensors, VisionTransformer, VitConfig};
use vit_ops::cross_entropy_sum;
use vit_train::{NamedVars, OptimizerConfig};

use crate::files::test_file;

/// Tolerance of an output, loss or gradient in `f32`, relative to the tensor's largest entry.
pub(crate) const TOLERANCE: f64 = 1e-4;
/// Limit of a gradient that is zero in exact arithmetic, relative to the largest gradient.
const ZERO_GRADIENT: f64 = 1e-6;

/// A model in `tests/fixtures`.
pub(crate) struct Fixture {
    pub(crate) config: VitConfig,
    pub(crate) optimizer: OptimizerConfig,
    tensors: Tensors,
}

impl Fixture {
    pub(crate) fn read(name: &str) -> Self {
        let path = test_file(format!("fixtures/{name}.safetensors"));
        let bytes = std::fs::read(&path).expect("a committed fixture");
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("safetensors");
        let metadata = header.metadata().clone().expect("a fixture has metadata");
        let config = serde_json::from_str(&metadata["config"]).expect("our configuration");
        let optimizer = metadata.get("optimizer");
        let optimizer = optimizer.map(|json| serde_json::from_str(json).expect("our settings"));
        let tensors = ModelFile::open(&path).and_then(|file| file.tensors());
        let tensors = tensors.expect("a readable fixture");
        Self { config, optimizer: optimizer.unwrap_or(OptimizerConfig::adam(3e-4)), tensors }
    }

    /// Moves the fixture to a device.
    pub(crate) fn on(mut self, device: &Device) -> Result<Self> {
        for tensor in self.tensors.values_mut() {
            *tensor = tensor.to_device(device)?;
        }
        Ok(self)
    }

    /// A library's results for a model of `config` with these parameters.
    pub(crate) fn of(config: VitConfig, mut tensors: Tensors, parameters: &Tensors) -> Self {
        let parameters = parameters.iter();
        tensors.extend(parameters.map(|(name, tensor)| (format!("param.{name}"), tensor.clone())));
        Self { config, optimizer: OptimizerConfig::adam(3e-4), tensors }
    }

    /// The model's parameters by name.
    pub(crate) fn parameters(&self) -> Tensors {
        let tensors = self.tensors.iter();
        let of_model =
            tensors.filter_map(|(name, tensor)| Some((name.strip_prefix("param.")?, tensor)));
        of_model.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    pub(crate) fn model(&self) -> Result<Model> {
        let parameters = self
            .parameters()
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)))
            .collect::<Result<NamedVars>>()?;
        let tracked = parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let images = self.tensor("images");
        let (dtype, device) = (images.dtype(), images.device());
        let vb = candle_nn::VarBuilder::from_tensors(tracked.collect(), dtype, device);
        Ok(Model { forward: VisionTransformer::new(&self.config, &vb)?, parameters })
    }

    pub(crate) fn output(&self, model: &Model) -> Result<Tensor> {
        // In training mode with all rates 0, which must equal evaluation.
        let mode = Mode::Train(Random::new(1).at_step(1));
        model.forward.forward(self.tensor("images"), mode)
    }

    /// Mean cross entropy.
    pub(crate) fn loss(&self, output: &Tensor) -> Result<Tensor> {
        let labels = self.tensor("labels").to_dtype(DType::U32)?;
        cross_entropy_sum(output, &labels)? / labels.elem_count() as f64
    }

    /// Checks the output, the loss and each gradient against PyTorch's.
    pub(crate) fn assert_agreement(&self, case: &str) -> Result<()> {
        let model = self.model()?;
        let output = self.output(&model)?;
        let loss = self.loss(&output)?;
        assert_close(&output, self.tensor("output"), &format!("{case}: output"))?;
        assert_close(&loss, &self.tensor("loss").squeeze(0)?, &format!("{case}: loss"))?;
        let gradients = loss.backward()?;
        let mut largest = 0.0_f64;
        for (name, _) in &model.parameters {
            largest = largest.max(largest_entry(self.tensor(&format!("grad.{name}")))?);
        }
        for (name, var) in &model.parameters {
            let got = gradients.get(var).unwrap_or_else(|| panic!("{case}: {name} has none"));
            let want = self.tensor(&format!("grad.{name}"));
            for (part, got, want) in self.parts(name, got, want)? {
                let label = format!("{case}: gradient of {name}{part}");
                if part == KEY_BIAS {
                    let share = largest_entry(&got)? / largest;
                    assert!(share < ZERO_GRADIENT, "{label} is {share:e} of the largest");
                } else {
                    assert_close(&got, &want, &label)?;
                }
            }
        }
        Ok(())
    }

    /// A parameter's parts. Whatever adds the same to every key, by a bias or the keys' norm, shifts all scores of a
    /// query equally, so its exact gradient is zero and only rounding remains.
    pub(crate) fn parts(
        &self,
        name: &str,
        got: &Tensor,
        want: &Tensor,
    ) -> Result<Vec<(&'static str, Tensor, Tensor)>> {
        if name.ends_with("attn.k_norm.bias") {
            return Ok(vec![(KEY_BIAS, got.clone(), want.clone())]);
        }
        if self.config.qk_norm || !name.ends_with("attn.qkv.bias") {
            return Ok(vec![("", got.clone(), want.clone())]);
        }
        let dim = got.dims1()? / 3;
        let part = |index: usize, label| {
            Ok((label, got.narrow(0, index * dim, dim)?, want.narrow(0, index * dim, dim)?))
        };
        [part(0, ", queries"), part(1, KEY_BIAS), part(2, ", values")].into_iter().collect()
    }
}

/// A model with a fixture's configuration and parameters.
pub(crate) struct Model {
    forward: VisionTransformer,
    pub(crate) parameters: NamedVars,
}

/// The part of a parameter whose exact gradient is zero.
pub(crate) const KEY_BIAS: &str = ", keys";

/// The largest absolute value.
pub(crate) fn largest_entry(xs: &Tensor) -> Result<f64> {
    xs.to_dtype(DType::F64)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// Checks the largest difference, relative to the largest entry.
pub(crate) fn assert_close(got: &Tensor, want: &Tensor, label: &str) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{label}");
    let difference = (got.to_dtype(DType::F64)? - want.to_dtype(DType::F64)?)?;
    // NaN would never be the largest difference.
    assert!(difference.sum_all()?.to_scalar::<f64>()?.is_finite(), "{label} is not finite");
    let share = largest_entry(&difference)? / largest_entry(want)?;
    assert!(share <= TOLERANCE, "{label} differs by {share:e} of its largest entry");
    Ok(())
}
