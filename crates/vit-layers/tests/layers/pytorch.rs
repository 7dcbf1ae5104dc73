//! Outputs, attention weights and gradients agree with PyTorch's layers.
//!
//! The fixtures are written by the repository's `tests/reference/layer_fixtures.py`.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use vit_layers::{
    Activation, AttentionConfig, CrossAttention, Encoder, EncoderConfig, Mode, NormPlacement,
    Parameters, Pass, TokenMask,
};

use crate::support::{largest, largest_difference};

/// Largest difference relative to the tensor's largest entry.
const TOLERANCE: f64 = 1e-4;
/// A gradient that is zero in exact arithmetic stays below this share of the largest gradient.
const ZERO_GRADIENT: f64 = 1e-6;
/// The script's sizes.
const DIM: usize = 16;
const LENGTHS: [usize; 3] = [7, 4, 1];

struct Fixture(HashMap<String, Tensor>);

impl Fixture {
    fn read(name: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let path = path.with_extension("safetensors");
        Ok(Self(candle_core::safetensors::load(path, &Device::Cpu)?))
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    fn parameters(&self) -> Parameters {
        let parameters = self
            .0
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("param.")?.to_owned(), tensor)));
        Parameters::from_tensors(parameters.map(|(name, tensor)| (name, tensor.clone())))
    }

    fn assert_close(&self, got: &Tensor, name: &str) -> Result<()> {
        let want = self.tensor(name);
        let share = largest_difference(got, want)? / largest(want)?;
        assert!(share <= TOLERANCE, "{name} differs by {share:e} of its largest entry");
        Ok(())
    }

    /// Compares the gradients of `loss` with PyTorch's. The keys' bias, rows `keys` of the named tensor, has gradient
    /// zero up to rounding.
    fn assert_gradients(
        &self,
        loss: &Tensor,
        variables: impl IntoIterator<Item = (String, Var)>,
        (bias, keys): (&str, std::ops::Range<usize>),
    ) -> Result<()> {
        let store = loss.backward()?;
        let mut of_keys = 0.0_f64;
        let mut of_all = 0.0_f64;
        for (name, var) in variables {
            let got = store.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            of_all = of_all.max(largest(got)?);
            if name.ends_with(bias) {
                of_keys = of_keys.max(largest(&got.i(keys.clone())?)?);
                let want = self.tensor(&format!("grad.{name}"));
                for rest in [0..keys.start, keys.end..got.elem_count()] {
                    if !rest.is_empty() {
                        let (got, want) = (got.i(rest.clone())?, want.i(rest)?);
                        let share = largest_difference(&got, &want)? / largest(&want)?;
                        assert!(share <= TOLERANCE, "{name} differs by {share:e}");
                    }
                }
            } else {
                self.assert_close(got, &format!("grad.{name}"))?;
            }
        }
        assert!(of_keys < ZERO_GRADIENT * of_all, "the gradient of keys' biases is {of_keys:e}");
        Ok(())
    }
}

/// One of the script's `nn.TransformerEncoder`s.
struct Case {
    name: &'static str,
    norm: NormPlacement,
    activation: Activation,
    padded: bool,
    causal: bool,
    biased: bool,
}

const PLAIN: Case = Case {
    name: "pre-norm",
    norm: NormPlacement::Pre,
    activation: Activation::Gelu,
    padded: true,
    causal: false,
    biased: false,
};

const CASES: [Case; 6] = [
    PLAIN,
    Case { name: "post-norm", norm: NormPlacement::Post, activation: Activation::Relu, ..PLAIN },
    Case { name: "causal", padded: false, causal: true, ..PLAIN },
    Case { name: "causal-padded", causal: true, ..PLAIN },
    Case { name: "biased", padded: false, biased: true, ..PLAIN },
    Case {
        name: "biased-padded",
        norm: NormPlacement::Post,
        activation: Activation::Relu,
        biased: true,
        ..PLAIN
    },
];

#[test]
fn encoder_agrees_with_transformer_encoder() -> Result<()> {
    for Case { name, norm, activation, padded, causal, biased } in CASES {
        let fixture = Fixture::read(name)?;
        let parameters = fixture.parameters();
        let cfg = EncoderConfig {
            mlp_dim: 24,
            norm,
            activation,
            layer_norm_eps: 1e-5,
            ..EncoderConfig::new(DIM, 2, 4)
        };
        let encoder = Encoder::new(&cfg, &parameters.builder(DType::F32, &Device::Cpu))?;
        parameters.expect_all_used()?;
        let xs = Var::from_tensor(fixture.tensor("xs"))?;
        let mask = TokenMask::from_lengths(&LENGTHS, 7)?;
        let mut variables = parameters.sorted();
        variables.push(("xs".to_owned(), xs.clone()));
        let bias = match biased {
            true => Some(Var::from_tensor(fixture.tensor("bias"))?),
            false => None,
        };
        let mut pass = Pass::from(Mode::Eval);
        if padded {
            pass = pass.masked(&mask);
        }
        if causal {
            pass = pass.causal();
        }
        if let Some(bias) = &bias {
            pass = pass.biased(bias);
            variables.push(("bias".to_owned(), bias.clone()));
        }
        let ys = encoder.forward(&xs, pass)?;
        let (_, weights) = encoder.forward_with_weights(&xs, pass)?;
        // PyTorch also computes outputs for padding; they are weighted by zero.
        let weigh = fixture.tensor("weigh");
        let there = weigh.ne(0.0)?.to_dtype(DType::F32)?;
        let want = (fixture.tensor("output") * &there)?;
        let share = largest_difference(&(&ys * &there)?, &want)? / largest(&want)?;
        assert!(share <= TOLERANCE, "{name}: output differs by {share:e}");
        let there = there.narrow(2, 0, 1)?.unsqueeze(1)?; // (batch, 1, tokens, 1)
        let want = fixture.tensor("weights.0").broadcast_mul(&there)?;
        let got = weights.layers()[0].broadcast_mul(&there)?;
        let share = largest_difference(&got, &want)? / largest(&want)?;
        assert!(share <= TOLERANCE, "{name}: weights differ by {share:e}");
        let loss = (ys * weigh)?.sum_all()?;
        fixture.assert_gradients(&loss, variables, ("attn.qkv.bias", DIM..2 * DIM))?;
    }
    Ok(())
}

#[test]
fn cross_attention_agrees_with_multihead_attention() -> Result<()> {
    let fixture = Fixture::read("cross-attention")?;
    let parameters = fixture.parameters();
    let (xs, context) =
        (Var::from_tensor(fixture.tensor("xs"))?, Var::from_tensor(fixture.tensor("context"))?);
    let cfg = AttentionConfig::new(DIM, 4);
    let vb = parameters.builder(DType::F32, &Device::Cpu);
    let layer = CrossAttention::new(&cfg, context.dim(2)?, &vb)?;
    parameters.expect_all_used()?;
    let mask = TokenMask::from_lengths(&LENGTHS, 7)?;
    let pass = Pass::from(Mode::Eval).masked(&mask);
    let (ys, weights) = layer.forward_with_weights(&xs, &context, pass)?;
    fixture.assert_close(&ys, "output")?;
    fixture.assert_close(&weights, "weights")?;
    let without = layer.forward(&xs, &context, pass)?;
    assert_eq!(ys.to_vec3::<f32>()?, without.to_vec3::<f32>()?);
    let loss = (ys * fixture.tensor("weigh"))?.sum_all()?;
    let inputs = [("xs".to_owned(), xs), ("context".to_owned(), context)];
    let variables = parameters.sorted().into_iter().chain(inputs);
    fixture.assert_gradients(&loss, variables, ("kv.bias", 0..DIM))
}
