//! The book's example (docs/book/layers.md): a training step on a padded batch, and an evaluation.
//!
//! `cargo run -p vit-layers --example first_steps` prints nothing and fails if a shape is wrong.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};
use vit_layers::{AdamW, Encoder, EncoderConfig, Mode, Parameters, Pass, Random, TokenMask};

fn main() -> Result<()> {
    let parameters = Parameters::seeded(42);
    let vb = parameters.builder(DType::F32, &Device::Cpu);
    let encoder = Encoder::new(&EncoderConfig::new(32, 2, 4), &vb)?; // dim, depth, heads
    let vars = parameters.sorted().into_iter().map(|(_name, var)| var).collect();
    let mut adam = AdamW::new(vars, ParamsAdamW { weight_decay: 0.0, ..Default::default() })?;

    let tokens = Tensor::ones((3, 10, 32), DType::F32, &Device::Cpu)?; // (batch, tokens, dim)
    let mask = TokenMask::from_lengths(&[10, 7, 4], 10)?; // behind these, padding
    let train = Mode::Train(Random::new(42).at_step(1));
    let first = encoder.forward_first(&tokens, Pass::from(train).masked(&mask))?; // (batch, 1, dim)
    adam.backward_step(&first.sqr()?.mean_all()?)?;

    let evaluated = encoder.forward(&tokens, Pass::from(Mode::Eval).masked(&mask))?;
    assert_eq!(evaluated.dims(), [3, 10, 32]);
    Ok(())
}
