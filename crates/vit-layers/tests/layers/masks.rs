//! Padding changes no other token, causal passes do not look ahead, and encoders are permutation-equivariant.

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_layers::{
    Attention, AttentionConfig, CrossAttention, Encoder, EncoderBlock, EncoderConfig, FeedForward,
    Mode, Parameters, Pass, Random, TokenMask,
};

use crate::support::{DIM, configs, largest, largest_difference, normal, roughen, weigh};

const LENGTHS: [usize; 3] = [5, 2, 1];

fn encoder(cfg: &EncoderConfig) -> Result<(Parameters, Encoder)> {
    let parameters = Parameters::seeded(5);
    let encoder = Encoder::new(cfg, &parameters.builder(DType::F32, &Device::Cpu))?;
    roughen(&parameters)?;
    Ok((parameters, encoder))
}

/// Three sequences of five tokens; padding holds `filler` times other numbers.
fn padded(filler: f64) -> Result<Tensor> {
    let xs = normal("tokens", (3, 5, DIM))?;
    let there = normal("there", (3, 5, 1))?;
    let mut values = there.flatten_all()?.to_vec1::<f64>()?;
    for (sample, length) in LENGTHS.into_iter().enumerate() {
        values[5 * sample..][..5].fill(filler);
        values[5 * sample..][..length].fill(1.0);
    }
    xs.broadcast_mul(&Tensor::from_vec(values, (3, 5, 1), &Device::Cpu)?)?.to_dtype(DType::F32)
}

#[test]
fn padding_does_not_change_outputs() -> Result<()> {
    let mask = TokenMask::from_lengths(&LENGTHS, 5)?;
    for mode in [Mode::Eval, Mode::Train(Random::new(1).at_step(1))] {
        for (label, cfg) in configs() {
            let (_, encoder) = encoder(&cfg)?;
            let pass = Pass::from(mode).masked(&mask);
            let [zeros, noise] = [0.0, 50.0].map(|filler| encoder.forward(&padded(filler)?, pass));
            let (zeros, noise) = (zeros?, noise?);
            for (sample, length) in LENGTHS.into_iter().enumerate() {
                let tokens = |ys: &Tensor| ys.get(sample)?.narrow(0, 0, length)?.to_vec2::<f32>();
                assert_eq!(tokens(&zeros)?, tokens(&noise)?, "{label}, sample {sample}");
            }
        }
    }
    Ok(())
}

#[test]
fn padding_gets_no_gradient_and_changes_none() -> Result<()> {
    let mask = TokenMask::from_lengths(&LENGTHS, 5)?;
    let (parameters, encoder) = encoder(&EncoderConfig::new(DIM, 2, 2))?;
    let gradients = |filler| -> Result<_> {
        let xs = Var::from_tensor(&padded(filler)?)?;
        let ys = encoder.forward_first(&xs, Pass::from(Mode::Eval).masked(&mask))?;
        let store = weigh(&ys)?.backward()?;
        let variables = parameters.sorted().into_iter().chain([("xs".to_owned(), xs)]);
        let of = |(name, var): (String, Var)| (name, store.get(&var).expect("a gradient").clone());
        Ok(variables.map(of).collect::<Vec<_>>())
    };
    let (zeros, noise) = (gradients(0.0)?, gradients(50.0)?);
    for ((name, zeros), (_, noise)) in zeros.iter().zip(&noise) {
        assert!(largest_difference(zeros, noise)? <= 1e-6 * largest(zeros)?, "{name}");
    }
    let (_, of_xs) = noise.last().expect("the tokens' gradient");
    assert_eq!(largest(&of_xs.get(1)?.narrow(0, 2, 3)?)?, 0.0);
    Ok(())
}

/// Padding that holds NaN.
#[test]
fn nan_in_padding_does_not_spread() -> Result<()> {
    let behind = TokenMask::from_lengths(&LENGTHS, 5)?;
    let there = Tensor::new(&[[1_u8, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1]], &Device::Cpu)?;
    for mask in [behind, TokenMask::new(&there)?] {
        let padding = mask.to_tensor(DType::U8, &Device::Cpu)?.unsqueeze(2)?;
        let padding = padding.broadcast_as((3, 5, DIM))?.contiguous()?;
        let clean = padded(1.0)?;
        let spoilt = padding.where_cond(&clean, &(clean.ones_like()? * f64::NAN)?)?;
        for (label, cfg) in configs() {
            let parameters = Parameters::seeded(5);
            let vb = parameters.builder(DType::F32, &Device::Cpu);
            let encoder = Encoder::new(&cfg, &vb)?;
            let block = EncoderBlock::new(&cfg, &vb.pp("block"))?;
            let attention = Attention::new(&cfg.attention(), &vb.pp("attn"))?;
            let mlp = FeedForward::new(&cfg.feed_forward(), &vb.pp("mlp"))?;
            let cross = AttentionConfig { rotary: None, ..cfg.attention() };
            let cross = CrossAttention::new(&cross, DIM, &vb.pp("cross"))?;
            let queries = normal("queries", (3, 2, DIM))?.to_dtype(DType::F32)?;
            let pass = Pass::from(Mode::Train(Random::new(1).at_step(1))).masked(&mask);
            let run = |xs: &Tensor| -> Result<_> {
                let xs = Var::from_tensor(xs)?;
                let outputs = [
                    encoder.forward(&xs, pass)?,
                    encoder.forward_with_features(&xs, pass)?.1.swap_remove(0),
                    block.forward(&xs, pass)?,
                    attention.forward(&xs, pass)?,
                    mlp.forward(&xs, pass)?,
                    cross.forward(&queries, &xs, pass)?,
                ];
                let loss = outputs.iter().map(weigh).reduce(|a, b| a? + b?).expect("outputs")?;
                let grads = loss.backward()?;
                let mut all = Vec::new();
                for (_, var) in parameters.sorted().into_iter().chain([(String::new(), xs)]) {
                    all.push(grads.get(&var).expect("a gradient").flatten_all()?.to_vec1::<f32>()?);
                }
                for ys in &outputs {
                    all.push(ys.flatten_all()?.to_vec1()?);
                }
                Ok(all)
            };
            assert_eq!(run(&clean)?, run(&spoilt)?, "{label}");
        }
    }
    Ok(())
}

#[test]
fn causal_pass_does_not_see_later_tokens() -> Result<()> {
    for (label, cfg) in configs() {
        let (_, encoder) = encoder(&cfg)?;
        for mode in [Mode::Eval, Mode::Train(Random::new(1).at_step(1))] {
            let pass = Pass::from(mode).causal();
            let xs = padded(1.0)?;
            let later = xs.narrow(1, 3, 2)?.affine(-4.0, 1.0)?;
            let changed = Tensor::cat(&[&xs.narrow(1, 0, 3)?, &later], 1)?;
            let [ys, other] = [&xs, &changed].map(|xs| encoder.forward(xs, pass)?.narrow(1, 0, 3));
            assert_eq!(ys?.to_vec3::<f32>()?, other?.to_vec3::<f32>()?, "{label}");
        }
    }
    Ok(())
}

#[test]
fn negative_infinity_bias_after_the_query_equals_causal_mask() -> Result<()> {
    let seen = |i: usize, j: usize| if j <= i { 0.0_f32 } else { f32::NEG_INFINITY };
    let bias: Vec<f32> = (0..25).map(|index| seen(index / 5, index % 5)).collect();
    let bias = Tensor::from_vec(bias, (1, 1, 5, 5), &Device::Cpu)?;
    let mask = TokenMask::from_lengths(&LENGTHS, 5)?;
    for (label, cfg) in configs() {
        let (_, encoder) = encoder(&cfg)?;
        let pass = Pass::from(Mode::Eval).masked(&mask);
        let causal = encoder.forward(&padded(1.0)?, pass.causal())?;
        let biased = encoder.forward(&padded(1.0)?, pass.biased(&bias))?;
        assert!(largest_difference(&causal, &biased)? < 1e-5, "{label}");
        let first = encoder.forward_first(&padded(1.0)?, pass.biased(&bias))?;
        assert!(largest_difference(&first, &biased.narrow(1, 0, 1)?)? < 1e-5, "{label}");
    }
    Ok(())
}

#[test]
fn features_equal_each_blocks_output() -> Result<()> {
    let mask = TokenMask::from_lengths(&LENGTHS, 5)?;
    for (label, cfg) in configs() {
        let (_, encoder) = encoder(&cfg)?;
        let pass = Pass::from(Mode::Eval).masked(&mask);
        let (ys, features) = encoder.forward_with_features(&padded(1.0)?, pass)?;
        assert_eq!(features.len(), cfg.depth);
        let want = encoder.forward(&padded(1.0)?, pass)?;
        assert_eq!(ys.to_vec3::<f32>()?, want.to_vec3::<f32>()?, "{label}");
    }
    Ok(())
}

#[test]
fn padded_sequence_is_encoded_like_the_sequence_alone() -> Result<()> {
    let mask = TokenMask::from_lengths(&LENGTHS, 5)?;
    for (label, cfg) in configs() {
        let (_, encoder) = encoder(&cfg)?;
        let xs = padded(1.0)?;
        let pass = Pass::from(Mode::Eval).masked(&mask);
        let (ys, firsts) = (encoder.forward(&xs, pass)?, encoder.forward_first(&xs, pass)?);
        for (sample, length) in LENGTHS.into_iter().enumerate() {
            let alone = xs.narrow(0, sample, 1)?.narrow(1, 0, length)?;
            let alone = encoder.forward(&alone, Mode::Eval)?;
            let together = ys.narrow(0, sample, 1)?.narrow(1, 0, length)?;
            assert!(largest_difference(&together, &alone)? < 1e-5, "{label}, sample {sample}");
            let first = firsts.narrow(0, sample, 1)?;
            assert!(largest_difference(&first, &alone.narrow(1, 0, 1)?)? < 1e-5, "{label}");
        }
    }
    Ok(())
}

#[test]
fn permuting_tokens_permutes_outputs() -> Result<()> {
    let order = Tensor::new(&[2_u32, 4, 0, 3, 1], &Device::Cpu)?;
    for (label, cfg) in configs().into_iter().filter(|(_, cfg)| cfg.rotary.is_none()) {
        let (_, encoder) = encoder(&cfg)?;
        let xs = padded(1.0)?;
        let permuted = encoder.forward(&xs.index_select(&order, 1)?, Mode::Eval)?;
        let want = encoder.forward(&xs, Mode::Eval)?.index_select(&order, 1)?;
        assert!(largest_difference(&permuted, &want)? < 1e-5, "{label}");
    }
    Ok(())
}

#[test]
fn permuted_or_padded_context_does_not_change_outputs() -> Result<()> {
    let vb = Parameters::seeded(5).builder(DType::F32, &Device::Cpu);
    let layer = CrossAttention::new(&AttentionConfig::new(6, 2), DIM, &vb)?;
    let xs = normal("queries", (3, 2, 6))?.to_dtype(DType::F32)?;
    let order = Tensor::new(&[2_u32, 4, 0, 3, 1], &Device::Cpu)?;
    let context = padded(1.0)?;
    let ys = layer.forward(&xs, &context, Mode::Eval)?;
    let permuted = layer.forward(&xs, &context.index_select(&order, 1)?, Mode::Eval)?;
    assert!(largest_difference(&ys, &permuted)? < 1e-5);
    let mask = TokenMask::from_lengths(&LENGTHS, 5)?;
    let pass = Pass::from(Mode::Eval).masked(&mask);
    let [zeros, noise] =
        [0.0, 50.0].map(|filler| layer.forward(&xs, &padded(filler)?, pass)?.to_vec3::<f32>());
    assert_eq!(zeros?, noise?);
    Ok(())
}
