//! Every operation of vit-ops, forward and backward.

use candle_core::{DType, Device, Result, Tensor};
use vit_ops::{
    Activation, Attend, DropRate, DropoutSource, Queries, TokenMask, add, add_each,
    attention_weights, cross_attention, dropout, dropout_mask, first_tokens, layer_norm, linear,
    linear_activation, linear_dropout, patchify, scale_features, self_attention,
    smoothed_cross_entropy_sum, softmax,
};
use vit_random::{Random, Site};

use crate::case::{assert_equals_the_cpu, normal};
use crate::gpu;

const SITE: Site = Site::named("gpu");

fn rate(rate: f64) -> DropRate {
    DropRate::new(rate).expect("a rate in [0, 1)")
}

#[test]
fn linear_layers_equal_the_cpu() -> Result<()> {
    // The last three shapes exceed our own kernels: the first in the output and the input's gradient, the others also
    // in the weight's, the very last with more inputs than outputs.
    let shapes: [(&[usize], usize, usize); 8] = [
        (&[1], 1, 1),
        (&[5], 7, 3),
        (&[2, 16], 32, 96),
        (&[2, 3, 4], 49, 10),
        (&[5000], 5, 40),
        (&[3, 2731], 32, 96),
        (&[20_000], 32, 128),
        (&[17_000], 128, 33),
    ];
    for (leading, inputs, outputs) in shapes {
        let xs: Vec<usize> = leading.iter().copied().chain([inputs]).collect();
        let [weight, bias] = [&[outputs, inputs][..], &[outputs]];
        assert_equals_the_cpu("linear", &[&xs, weight], |t| linear(&t[0], &t[1], None))?;
        assert_equals_the_cpu("linear, bias", &[&xs, weight, bias], |t| {
            linear(&t[0], &t[1], Some(&t[2]))
        })?;
        if xs.len() > 1 {
            let random = Random::new(5).at_step(3).from_sample(1);
            assert_equals_the_cpu("linear, dropout", &[&xs, weight, bias], |t| {
                linear_dropout(&t[0], (&t[1], &t[2]), (rate(0.3), SITE), &random)
            })?;
        }
        for activation in [Activation::Relu, Activation::Gelu] {
            let label = format!("linear, {activation:?}");
            assert_equals_the_cpu(&label, &[&xs, weight, bias], |t| {
                linear_activation(&t[0], &t[1], &t[2], activation)
            })?;
        }
    }
    assert_equals_the_cpu("linear, transposed", &[&[5, 6], &[3, 5], &[3]], |t| {
        linear(&t[0].t()?, &t[1], Some(&t[2]))
    })
}

#[test]
fn activations_equal_the_cpu() -> Result<()> {
    for activation in [Activation::Relu, Activation::Gelu] {
        let label = format!("{activation:?}");
        assert_equals_the_cpu(&label, &[&[7, 33]], |t| activation.forward(&t[0]))?;
    }
    Ok(())
}

#[test]
fn layer_norms_equal_the_cpu() -> Result<()> {
    let shapes: [&[usize]; 5] = [&[3, 5], &[2, 16, 32], &[7, 33], &[2, 3, 4, 192], &[9000, 8]];
    for shape in shapes {
        let dim = [shape[shape.len() - 1]];
        assert_equals_the_cpu("layer norm", &[shape, &dim, &dim], |t| {
            layer_norm(&t[0], &t[1], &t[2], 1e-5)
        })?;
    }
    assert_equals_the_cpu("layer norm, transposed", &[&[5, 6], &[5], &[5]], |t| {
        layer_norm(&t[0].t()?, &t[1], &t[2], 1e-5)
    })
}

#[test]
fn softmaxes_equal_the_cpu() -> Result<()> {
    for width in [1, 2, 10, 31, 32, 33, 1000] {
        assert_equals_the_cpu("softmax", &[&[3, width]], |t| softmax(&t[0]))?;
    }
    Ok(())
}

#[test]
fn self_attention_equals_the_cpu() -> Result<()> {
    // The last one is too large for a block, and so uses the composed form.
    let sizes = [
        (1, 1, 1, 1),
        (3, 5, 2, 3),
        (2, 16, 4, 8),
        (2, 50, 3, 64),
        (1, 17, 2, 32),
        (1, 197, 2, 64),
    ];
    for (batch, tokens, heads, head_dim) in sizes {
        let shape = [batch, tokens, 3 * heads * head_dim];
        let lengths: Vec<usize> =
            (0..batch).map(|sample| tokens - sample.min(tokens - 1)).collect();
        let mask = TokenMask::from_lengths(&lengths, tokens)?;
        let random = Random::new(3).at_step(7).from_sample(2);
        let drop = DropoutSource { rate: rate(0.3), site: SITE, random };
        let plain = Attend::new(heads, (head_dim as f64).powf(-0.5));
        let attends = [
            plain,
            Attend { mask: Some(&mask), ..plain },
            Attend { dropout: Some(drop), ..plain },
            Attend { mask: Some(&mask), dropout: Some(drop), ..plain },
        ];
        for attend in attends {
            for queries in [Queries::All, Queries::First] {
                let label = format!("{queries:?}, {attend:?}");
                assert_equals_the_cpu(&label, &[&shape], |t| {
                    self_attention(&t[0], queries, &attend)
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn cross_attention_equals_the_cpu() -> Result<()> {
    for (queries, tokens, heads, head_dim) in [(1, 1, 1, 1), (3, 7, 2, 5), (9, 4, 3, 8)] {
        let dim = heads * head_dim;
        let mask = TokenMask::from_lengths(&[tokens, 1], tokens)?;
        let drop = DropoutSource { rate: rate(0.5), site: SITE, random: Random::new(3) };
        let attend = Attend { mask: Some(&mask), dropout: Some(drop), ..Attend::new(heads, 0.4) };
        let shapes: [&[usize]; 2] = [&[2, queries, dim], &[2, tokens, 2 * dim]];
        assert_equals_the_cpu("cross-attention", &shapes, |t| {
            cross_attention(&t[0], &t[1], &attend)
        })?;
        let shapes: [&[usize]; 2] = [&[2, queries, dim], &[2, tokens, dim]];
        assert_equals_the_cpu("attention weights", &shapes, |t| {
            attention_weights(&t[0], &t[1], &attend)
        })?;
    }
    Ok(())
}

#[test]
fn dropout_masks_equal_the_cpus_bit_for_bit() -> Result<()> {
    let random = Random::new(0x1234_5678_9abc_def0).at_step(5).from_sample(3);
    for shape in [&[1][..], &[3, 1], &[2, 7], &[4, 3, 5], &[64, 16, 32]] {
        let mask = |device: &Device| {
            let mask = dropout_mask(shape, rate(0.2), SITE, &random, DType::F32, device)?;
            mask.flatten_all()?.to_vec1::<f32>()
        };
        assert_eq!(mask(&gpu())?, mask(&Device::Cpu)?, "{shape:?}");
        assert_equals_the_cpu("dropout", &[shape], |t| dropout(&t[0], rate(0.2), SITE, &random))?;
    }
    Ok(())
}

#[test]
fn cross_entropy_equals_the_cpu() -> Result<()> {
    for (batch, classes) in [(1, 1), (1, 10), (5, 3), (64, 10), (3000, 10), (3, 1000), (50, 33)] {
        let labels: Vec<u32> = (0..batch).map(|n| (n * 7 % classes) as u32).collect();
        let labels = Tensor::from_vec(labels, batch, &Device::Cpu)?;
        for smoothing in [0.0, 0.1] {
            assert_equals_the_cpu("cross entropy", &[&[batch, classes]], |t| {
                let labels = labels.to_device(t[0].device())?;
                smoothed_cross_entropy_sum(&t[0], &labels, smoothing)
            })?;
        }
    }
    Ok(())
}

#[test]
fn an_out_of_range_label_gives_a_nan_loss() -> Result<()> {
    let logits = normal(0, &[2, 3])?.to_device(&gpu())?;
    let labels = Tensor::new(&[1_u32, 3], &gpu())?;
    assert!(smoothed_cross_entropy_sum(&logits, &labels, 0.0)?.to_scalar::<f32>()?.is_nan());
    Ok(())
}

#[test]
fn positions_patches_and_first_tokens_equal_the_cpu() -> Result<()> {
    assert_equals_the_cpu("add each", &[&[4, 3, 7], &[3, 7]], |t| add_each(&t[0], &t[1]))?;
    assert_equals_the_cpu("add each", &[&[3000, 2, 5], &[1, 2, 5]], |t| add_each(&t[0], &t[1]))?;
    for (images, patch) in
        [([2, 1, 28, 28], (7, 7)), ([2, 3, 4, 6], (2, 3)), ([1, 1, 8, 8], (2, 8))]
    {
        assert_equals_the_cpu("patchify", &[&images], |t| patchify(&t[0], patch))?;
    }
    assert_equals_the_cpu("add", &[&[4, 3, 7], &[4, 3, 7]], |t| add(&t[0], &t[1]))?;
    for count in [1, 2, 4] {
        assert_equals_the_cpu("first tokens", &[&[3, 4, 5]], |t| first_tokens(&t[0], count))?;
    }
    assert_equals_the_cpu("scale features", &[&[2, 3, 5], &[5]], |t| scale_features(&t[0], &t[1]))
}

#[test]
fn empty_inputs_give_empty_outputs() -> Result<()> {
    let none = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &gpu());
    let (weight, bias) = (none(&[3, 4])?, none(&[3])?);
    assert_eq!(linear(&none(&[0, 4])?, &weight, Some(&bias))?.dims(), [0, 3]);
    assert_eq!(layer_norm(&none(&[0, 3])?, &bias, &bias, 1e-5)?.dims(), [0, 3]);
    assert_eq!(softmax(&none(&[0, 5])?)?.dims(), [0, 5]);
    let attend = Attend::new(1, 1.0);
    assert_eq!(self_attention(&none(&[0, 5, 6])?, Queries::All, &attend)?.dims(), [0, 5, 2]);
    assert_eq!(patchify(&none(&[0, 1, 4, 4])?, (2, 2))?.dims(), [0, 4, 4]);
    Ok(())
}

#[test]
fn the_same_input_gives_the_same_bits() -> Result<()> {
    let qkv = normal(0, &[64, 16, 96])?.to_device(&gpu())?;
    let var = candle_core::Var::from_tensor(&qkv)?;
    let attend = Attend::new(4, 0.3);
    let gradient = || -> Result<Vec<f32>> {
        let ys = self_attention(&var, Queries::All, &attend)?;
        let (weight, bias) =
            (normal(1, &[32])?.to_device(&gpu())?, normal(2, &[32])?.to_device(&gpu())?);
        let loss = layer_norm(&ys, &weight, &bias, 1e-5)?.sqr()?.sqr()?.sum_all()?;
        loss.backward()?.get(&var).expect("a gradient").flatten_all()?.to_vec1()
    };
    let first = gradient()?;
    for _ in 0..5 {
        assert_eq!(gradient()?, first);
    }
    Ok(())
}
