//! Outputs, losses, gradients and optimiser steps are PyTorch's.
//!
//! The fixtures are written by `tests/reference/make_fixtures.py`; how far two right programs can differ was
//! tried there too, with PyTorch against itself.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_layers::{Mode, Random};
use vit_model::{Tensors, VisionTransformer, VitConfig};
use vit_ops::cross_entropy_sum;
use vit_train::{Optimizer, OptimizerConfig, Parameters};

/// Largest difference, as a share of the tensor's largest entry, of an output, loss or gradient in `f32`.
const TOLERANCE: f64 = 1e-4;
/// A gradient that is zero in exact arithmetic stays below this share of the largest gradient.
const ZERO_GRADIENT: f64 = 1e-6;
/// 100 steps in `f64`, composed form.
const F64_TOLERANCE: f64 = 1e-9;

/// The configurations of `tests/fixtures/agreement`.
const CASES: [&str; 11] = [
    "notebook",
    "shallow",
    "gelu",
    "cls",
    "mean",
    "qkv-bias",
    "sincos",
    "sincos-cls",
    "no-position",
    "softmax-dim",
    "rectangular",
];

struct Fixture {
    config: VitConfig,
    optimizer: OptimizerConfig,
    tensors: Tensors,
}

impl Fixture {
    fn read(name: &str) -> Self {
        let path = fixtures().join(name).with_extension("safetensors");
        let bytes = std::fs::read(&path).expect("a committed fixture");
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("safetensors");
        let metadata = header.metadata().clone().expect("a fixture has metadata");
        let config = serde_json::from_str(&metadata["config"]).expect("our configuration");
        let optimizer = metadata.get("optimizer");
        let optimizer = optimizer.map(|json| serde_json::from_str(json).expect("our settings"));
        let tensors = vit_model::read(&path).expect("a readable fixture").tensors;
        Self { config, optimizer: optimizer.unwrap_or(OptimizerConfig::adam(3e-4)), tensors }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    fn model(&self) -> Result<Model> {
        let initial = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("param.")?.to_owned(), tensor)));
        let parameters = initial
            .map(|(name, tensor)| Ok((name, Var::from_tensor(tensor)?)))
            .collect::<Result<Parameters>>()?;
        let tracked = parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let dtype = self.tensor("images").dtype();
        let vb = candle_nn::VarBuilder::from_tensors(tracked.collect(), dtype, &Device::Cpu);
        Ok(Model { forward: VisionTransformer::new(&self.config, &vb)?, parameters })
    }

    /// Steps on the fixture's one batch; the loss before each.
    fn train(&self, model: &Model, steps: usize) -> Result<Vec<f64>> {
        let mut optimizer =
            Optimizer::new(self.optimizer, &model.parameters).map_err(candle_core::Error::wrap)?;
        let mut losses = Vec::new();
        for _ in 0..steps {
            let loss = self.loss(&self.output(model)?)?;
            let mut store = loss.backward()?;
            let gradients = model.parameters.iter().map(|(name, var)| {
                store.remove(var).unwrap_or_else(|| panic!("{name} has no gradient"))
            });
            optimizer.step(&gradients.collect::<Vec<_>>())?;
            losses.push(loss.to_dtype(DType::F64)?.to_scalar()?);
        }
        Ok(losses)
    }

    fn output(&self, model: &Model) -> Result<Tensor> {
        // In training mode: the rates are zero, so that it must be evaluation's twin.
        let mode = Mode::Train(Random::new(1).at_step(1));
        model.forward.forward(self.tensor("images"), mode)
    }

    /// Mean cross entropy.
    fn loss(&self, output: &Tensor) -> Result<Tensor> {
        let labels = self.tensor("labels").to_dtype(DType::U32)?;
        cross_entropy_sum(output, &labels)? / labels.elem_count() as f64
    }
}

struct Model {
    forward: VisionTransformer,
    parameters: Parameters,
}

#[test]
fn outputs_losses_and_gradients_are_pytorchs() -> Result<()> {
    for case in CASES {
        let fixture = Fixture::read(&format!("agreement/{case}"));
        let model = fixture.model()?;
        let output = fixture.output(&model)?;
        let loss = fixture.loss(&output)?;
        assert_close(&output, fixture.tensor("output"), &format!("{case}: output"))?;
        assert_close(&loss, &fixture.tensor("loss").squeeze(0)?, &format!("{case}: loss"))?;
        let gradients = loss.backward()?;
        let mut largest = 0.0_f64;
        for (name, _) in &model.parameters {
            largest = largest.max(largest_entry(fixture.tensor(&format!("grad.{name}")))?);
        }
        for (name, var) in &model.parameters {
            let got = gradients.get(var).unwrap_or_else(|| panic!("{case}: {name} has none"));
            let want = fixture.tensor(&format!("grad.{name}"));
            for (part, got, want) in parts(name, got, want)? {
                let label = format!("{case}: gradient of {name}{part}");
                if part == KEY_BIAS {
                    let share = largest_entry(&got)? / largest;
                    assert!(share < ZERO_GRADIENT, "{label} is {share:e} of the largest");
                } else {
                    assert_close(&got, &want, &label)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn twenty_losses_and_ten_steps_of_adam_are_pytorchs() -> Result<()> {
    for case in CASES {
        let fixture = Fixture::read(&format!("agreement/{case}"));
        let losses = fixture.train(&fixture.model()?, 20)?;
        assert_losses(&losses, fixture.tensor("adam.losses"), TOLERANCE, case)?;
        let model = fixture.model()?;
        fixture.train(&model, 10)?;
        assert_parameters(&fixture, &model, "adam.param", TOLERANCE, case)?;
    }
    Ok(())
}

#[test]
fn a_hundred_steps_of_a_smooth_model_are_pytorchs() -> Result<()> {
    let fixture = Fixture::read("agreement/gelu");
    let model = fixture.model()?;
    let losses = fixture.train(&model, 100)?;
    assert_losses(&losses, fixture.tensor("adam100.losses"), TOLERANCE, "gelu")?;
    assert_parameters(&fixture, &model, "adam100.param", TOLERANCE, "gelu")
}

#[test]
fn a_hundred_steps_in_f64_are_pytorchs_to_nine_digits() -> Result<()> {
    for case in ["relu", "gelu", "adamw", "adam-decay"] {
        let fixture = Fixture::read(&format!("adam-f64/{case}"));
        let model = fixture.model()?;
        let losses = fixture.train(&model, 100)?;
        assert_losses(&losses, fixture.tensor("losses"), F64_TOLERANCE, case)?;
        assert_parameters(&fixture, &model, "final", F64_TOLERANCE, case)?;
    }
    Ok(())
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

const KEY_BIAS: &str = ", keys";

/// A parameter's pieces: the bias of the keys moves every score of a query alike, so that its exact gradient is
/// zero and what is left is rounding.
fn parts(name: &str, got: &Tensor, want: &Tensor) -> Result<Vec<(&'static str, Tensor, Tensor)>> {
    if !name.ends_with("attn.qkv.bias") {
        return Ok(vec![("", got.clone(), want.clone())]);
    }
    let dim = got.dims1()? / 3;
    let part = |index: usize, label| {
        Ok((label, got.narrow(0, index * dim, dim)?, want.narrow(0, index * dim, dim)?))
    };
    [part(0, ", queries"), part(1, KEY_BIAS), part(2, ", values")].into_iter().collect()
}

fn largest_entry(xs: &Tensor) -> Result<f64> {
    xs.to_dtype(DType::F64)?.abs()?.flatten_all()?.max(0)?.to_scalar()
}

fn assert_close(got: &Tensor, want: &Tensor, label: &str) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{label}");
    let difference = (got.to_dtype(DType::F64)? - want.to_dtype(DType::F64)?)?;
    let share = largest_entry(&difference)? / largest_entry(want)?;
    assert!(share <= TOLERANCE, "{label} differs by {share:e} of its largest entry");
    Ok(())
}

fn assert_losses(got: &[f64], want: &Tensor, tolerance: f64, case: &str) -> Result<()> {
    let want = want.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    assert_eq!(got.len(), want.len());
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (got - want).abs();
        assert!(difference <= tolerance, "{case}: loss {step} is {got}, PyTorch's {want}");
    }
    Ok(())
}

fn assert_parameters(
    fixture: &Fixture,
    model: &Model,
    prefix: &str,
    tolerance: f64,
    case: &str,
) -> Result<()> {
    let norm = |xs: &Tensor| xs.to_dtype(DType::F64)?.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    for (name, var) in &model.parameters {
        let want = fixture.tensor(&format!("{prefix}.{name}"));
        for (part, got, want) in parts(name, var, want)? {
            if part == KEY_BIAS {
                continue;
            }
            let share = norm(&(&got - &want)?)? / norm(&want)?;
            assert!(share <= tolerance, "{case}: {name}{part} differs by {share:e} of its norm");
        }
    }
    Ok(())
}
