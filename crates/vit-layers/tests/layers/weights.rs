//! Attention weights belong to the forward pass and do not change it.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use vit_layers::{Attention, Encoder, EncoderConfig, Mode, Parameters, Pass, Random, TokenMask};

use crate::support::{DIM, configs, largest, largest_difference, normal, roughen};

fn encoder(cfg: &EncoderConfig) -> Result<Encoder> {
    let parameters = Parameters::seeded(5);
    let encoder = Encoder::new(cfg, &parameters.builder(DType::F32, &Device::Cpu))?;
    roughen(&parameters)?;
    Ok(encoder)
}

fn tokens() -> Result<Tensor> {
    normal("tokens", (2, 5, DIM))?.to_dtype(DType::F32)
}

#[test]
fn attention_weights_do_not_change_output() -> Result<()> {
    let mask = TokenMask::from_lengths(&[5, 3], 5)?;
    for (label, cfg) in configs() {
        let encoder = encoder(&cfg)?;
        for mode in [Mode::Eval, Mode::Train(Random::new(1).at_step(1))] {
            let pass = Pass::from(mode).masked(&mask);
            let (ys, weights) = encoder.forward_with_weights(&tokens()?, pass)?;
            let without = encoder.forward(&tokens()?, pass)?;
            assert_eq!(ys.to_vec3::<f32>()?, without.to_vec3::<f32>()?, "{label}");
            assert_eq!(weights.layers().len(), cfg.depth);
            for layer in weights.layers() {
                assert_eq!(layer.dims(), [2, cfg.heads, 5, 5]);
                assert!(largest(&(layer.sum(D::Minus1)? - 1.0)?)? < 1e-6, "{label}");
                assert_eq!(largest(&layer.i((1, .., .., 3..))?)?, 0.0, "{label}: padding");
            }
        }
    }
    Ok(())
}

/// With one head, identity values and no projection, the output is the weights times the input.
#[test]
fn attention_weights_are_the_weights_of_the_values() -> Result<()> {
    let random = |name: &str| normal(name, (DIM, DIM))?.to_dtype(DType::F32);
    let identity = Tensor::eye(DIM, DType::F32, &Device::Cpu)?;
    let qkv = Tensor::cat(&[&random("q")?, &random("k")?, &identity], 0)?;
    let zeros = Tensor::zeros(DIM, DType::F32, &Device::Cpu)?;
    let tensors = [("qkv.weight", qkv), ("proj.weight", identity), ("proj.bias", zeros)];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
    let vb = Parameters::from_tensors(tensors).builder(DType::F32, &Device::Cpu);
    let cfg = EncoderConfig { qkv_bias: false, ..EncoderConfig::new(DIM, 1, 1) };
    let (ys, weights) =
        Attention::new(&cfg.attention(), &vb)?.forward_with_weights(&tokens()?, Mode::Eval)?;
    assert!(largest_difference(&ys, &weights.squeeze(1)?.matmul(&tokens()?)?)? < 1e-6);
    Ok(())
}

#[test]
fn rollout_equals_the_product_over_blocks_with_residuals() -> Result<()> {
    let (_, weights) =
        encoder(&EncoderConfig::new(DIM, 2, 2))?.forward_with_weights(&tokens()?, Mode::Eval)?;
    let rollout = weights.rollout()?;
    assert_eq!(rollout.dims(), [2, 5, 5]);
    assert!(largest(&(rollout.sum(D::Minus1)? - 1.0)?)? < 1e-6);
    // By hand: entry (i, j) of the second sample.
    let block = |layer: usize, i: usize, j: usize| -> Result<f32> {
        let heads = weights.layers()[layer].i((1, .., i, j))?.to_vec1::<f32>()?;
        Ok((heads.iter().sum::<f32>() / 2.0 + f32::from(u8::from(i == j))) / 2.0)
    };
    for (i, j) in [(0, 0), (0, 3), (4, 1)] {
        let want = (0..5).map(|k| Ok(block(1, i, k)? * block(0, k, j)?)).sum::<Result<f32>>()?;
        let got = rollout.i((1, i, j))?.to_scalar::<f32>()?;
        assert!((got - want).abs() < 1e-6, "({i}, {j}): {got}, by hand {want}");
    }
    Ok(())
}
