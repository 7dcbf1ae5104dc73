//! The stages as one operation equal the stages as separate operations.

use candle_core::{DType, Device, Result, Tensor, Var};
use vit_random::{Random, Site};

use super::*;
use crate::parallel::tests::assert_threads_do_not_show;
use crate::testing::{Case, tensors};
use crate::{Attend, DropRate};

const DIM: usize = 12;
const HEADS: usize = 2;
const INNER: usize = 2 * 10;
const MLP_DIM: usize = 20;

/// The options of a case.
#[derive(Clone, Copy, Debug)]
struct Variant {
    norm: bool,
    bias: bool,
    activation: Activation,
    ends: bool,
    queries: Queries,
    causal: bool,
    rotary: bool,
    score_bias: bool,
    qk_norm: bool,
}

const PLAIN: Variant = Variant {
    norm: true,
    bias: true,
    activation: Activation::Gelu,
    ends: false,
    queries: Queries::All,
    causal: false,
    rotary: false,
    score_bias: false,
    qk_norm: false,
};

const VARIANTS: [Variant; 9] = [
    PLAIN,
    Variant { norm: false, ..PLAIN },
    Variant { bias: false, activation: Activation::Relu, ..PLAIN },
    Variant { activation: Activation::Relu, ends: true, ..PLAIN },
    Variant { queries: Queries::First, ends: true, ..PLAIN },
    Variant { causal: true, rotary: true, ..PLAIN },
    Variant { score_bias: true, ..PLAIN },
    Variant { qk_norm: true, rotary: true, ..PLAIN },
    Variant {
        queries: Queries::First,
        norm: false,
        rotary: true,
        causal: true,
        ends: true,
        ..PLAIN
    },
];

/// `xs`, then the parameters.
fn shapes(batch: usize, tokens: usize) -> Vec<Vec<usize>> {
    let norm = [vec![DIM], vec![DIM]];
    let mut shapes = vec![vec![batch, tokens, DIM]];
    shapes.extend(norm.clone());
    shapes.extend([vec![3 * INNER, DIM], vec![3 * INNER], vec![DIM, INNER], vec![DIM], vec![DIM]]);
    shapes.extend(norm.clone());
    shapes.extend([vec![MLP_DIM, DIM], vec![MLP_DIM], vec![DIM, MLP_DIM], vec![DIM], vec![DIM]]);
    shapes.extend(norm);
    shapes.push(vec![1, HEADS, tokens, tokens]);
    shapes.extend([
        vec![INNER / HEADS],
        vec![INNER / HEADS],
        vec![INNER / HEADS],
        vec![INNER / HEADS],
    ]);
    shapes
}

fn source(name: &str) -> Option<DropoutSource> {
    let rate = DropRate::new(0.3).expect("a rate in [0, 1)");
    Some(DropoutSource { rate, site: Site::named(name), random: Random::new(4).at_step(1) })
}

fn run(
    t: &[Tensor],
    variant: Variant,
    mask: Option<&TokenMask>,
    stages_of: impl Fn(&Tensor, &[Stage], Option<&TokenMask>) -> Result<Tensor>,
) -> Result<Tensor> {
    // Smaller parameters make the differences more accurate.
    let parameters = t[1..].iter().map(|t| t * 0.3).collect::<Result<Vec<_>>>()?;
    let t: Vec<&Tensor> = std::iter::once(&t[0]).chain(&parameters).collect();
    let norm = |i: usize| Norm { weight: t[i], bias: t[i + 1], eps: 1e-5 };
    let map = |i: usize| Affine { weight: t[i], bias: variant.bias.then_some(t[i + 1]) };
    let table = Rotary::new(100.0)?;
    let end = |name: &str, gamma| match variant.ends {
        true => BranchEnd {
            dropout: source(name),
            scale: Some(gamma),
            drop_path: source(&format!("{name} path")),
        },
        false => BranchEnd::default(),
    };
    let attend = Attend {
        causal: variant.causal,
        bias: variant.score_bias.then_some(t[17]),
        dropout: if variant.ends { source("weights") } else { None },
        ..Attend::new(HEADS, 0.35)
    };
    let stages = [
        Stage::Attention(AttentionBranch {
            norm: variant.norm.then(|| norm(1)),
            qkv: map(3),
            qk_norm: variant.qk_norm.then(|| [norm(18), norm(20)]),
            rotary: variant.rotary.then_some(&table),
            queries: variant.queries,
            attend,
            proj: Affine { weight: t[5], bias: Some(t[6]) },
            end: end("attention", t[7]),
        }),
        Stage::FeedForward(FeedForwardBranch {
            norm: variant.norm.then(|| norm(8)),
            fc1: map(10),
            activation: variant.activation,
            fc2: Affine { weight: t[12], bias: Some(t[13]) },
            end: end("feed-forward", t[14]),
        }),
        Stage::Norm(norm(15)),
    ];
    let ys = stages_of(t[0], &stages, mask)?;
    // Unused parameters are added with weight zero, so that each has a gradient.
    let mut rest = Tensor::zeros((), t[0].dtype(), &Device::Cpu)?;
    for t in &t[1..] {
        rest = (rest + (t.sum_all()? * 1e-30)?)?;
    }
    ys.broadcast_add(&rest)
}

fn case(batch: usize, tokens: usize) -> Result<Case> {
    let shapes = shapes(batch, tokens);
    Case::new(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn masks(batch: usize, tokens: usize) -> Result<Vec<Option<TokenMask>>> {
    // Short and long: rows of weights of one register and of several.
    let lengths: Vec<usize> = (0..batch).map(|sample| tokens - 7 * sample % tokens).collect();
    Ok(vec![None, Some(TokenMask::from_lengths(&lengths, tokens)?)])
}

#[test]
fn fused_equals_composed_forward_and_backward() -> Result<()> {
    for (batch, tokens) in [(1, 1), (3, 5), (2, 19), (2, 130)] {
        for mask in masks(batch, tokens)? {
            for variant in VARIANTS {
                case(batch, tokens)?.fused_equals_composed(
                    |t| run(t, variant, mask.as_ref(), residual_stages),
                    |t| run(t, variant, mask.as_ref(), composed::residual_stages),
                )?;
            }
        }
    }
    Ok(())
}

#[test]
fn without_padding_fused_and_composed_outputs_have_the_same_bits() -> Result<()> {
    let shapes = shapes(3, 7);
    let shapes: [&[usize]; 22] = std::array::from_fn(|i| shapes[i].as_slice());
    let t = tensors(&shapes)?;
    for variant in VARIANTS {
        let [one, many] = [
            run(&t, variant, None, residual_stages)?,
            run(&t, variant, None, composed::residual_stages)?,
        ]
        .map(|ys| ys.to_vec3::<f32>().expect("an output"));
        assert_eq!(one, many, "{variant:?}");
    }
    Ok(())
}

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    let mask = TokenMask::from_lengths(&[3, 2], 3)?;
    let all_scores = Variant {
        causal: true,
        rotary: true,
        score_bias: true,
        qk_norm: true,
        norm: false,
        ..PLAIN
    };
    for variant in [VARIANTS[2], VARIANTS[4], all_scores] {
        case(2, 3)?.gradients_match_differences(|t| {
            run(t, variant, Some(&mask), composed::residual_stages)
        })?;
    }
    Ok(())
}

#[test]
fn nan_in_padding_does_not_spread() -> Result<()> {
    let (batch, tokens) = (3, 5);
    let shapes = shapes(batch, tokens);
    let shapes: [&[usize]; 22] = std::array::from_fn(|i| shapes[i].as_slice());
    let clean = tensors(&shapes)?;
    let behind = TokenMask::from_lengths(&[5, 3, 1], tokens)?;
    let there = Tensor::new(&[[1_u8, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 1]], &Device::Cpu)?;
    for mask in [behind, TokenMask::new(&there)?] {
        let padding = mask.to_tensor(DType::U8, &Device::Cpu)?.unsqueeze(2)?;
        let padding = padding.broadcast_as(clean[0].shape())?.contiguous()?;
        let spoilt = padding.where_cond(&clean[0], &(clean[0].ones_like()? * f64::NAN)?)?;
        for variant in VARIANTS {
            if variant.queries == Queries::First && mask.begins_with_padding().is_some() {
                continue;
            }
            let of = |xs: &Tensor| -> Result<_> {
                let vars = std::iter::once(xs).chain(&clean[1..]).map(Var::from_tensor);
                let vars = vars.collect::<Result<Vec<_>>>()?;
                let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
                let ys = run(&inputs, variant, Some(&mask), residual_stages)?;
                let grads = ys.sqr()?.sum_all()?.backward()?;
                let grads =
                    vars.iter().map(|var| grads.get(var).expect("a gradient").flatten_all());
                let grads = grads.map(|grad| grad?.to_vec1::<f32>()).collect::<Result<Vec<_>>>()?;
                Ok((ys.to_vec3::<f32>()?, grads))
            };
            assert_eq!(of(&clean[0])?, of(&spoilt)?, "{variant:?}");
        }
    }
    Ok(())
}

#[test]
fn threads_do_not_change_a_bit() -> Result<()> {
    let (batch, tokens) = (24, 70);
    let shapes = shapes(batch, tokens);
    let shapes: [&[usize]; 22] = std::array::from_fn(|i| shapes[i].as_slice());
    let t = tensors(&shapes)?;
    for mask in masks(batch, tokens)? {
        for variant in [PLAIN, VARIANTS[3], VARIANTS[6]] {
            assert_threads_do_not_show(|| {
                let vars: Vec<Var> =
                    t.iter().map(|t| Var::from_tensor(t).expect("a variable")).collect();
                let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
                let ys = run(&inputs, variant, mask.as_ref(), residual_stages).expect("an output");
                let grads = ys.sqr().and_then(|ys| ys.backward()).expect("gradients");
                let of = |var: &Var| grads.get(var).expect("a gradient").flatten_all();
                let grads = vars.iter().map(|var| of(var).and_then(|grad| grad.to_vec1::<f32>()));
                let grads: Vec<Vec<f32>> = grads.map(|grad| grad.expect("a vector")).collect();
                (ys.to_vec3::<f32>().expect("an output"), grads)
            });
        }
    }
    Ok(())
}

#[test]
fn transposed_and_empty_inputs_work() -> Result<()> {
    let mut of_transposed = shapes(2, 4);
    of_transposed[0] = vec![4, 2, DIM];
    let transposed = |t: &[Tensor]| -> Result<Vec<Tensor>> {
        let mut t = t.to_vec();
        t[0] = t[0].transpose(0, 1)?;
        Ok(t)
    };
    Case::new(&of_transposed.iter().map(Vec::as_slice).collect::<Vec<_>>())?
        .fused_equals_composed(
            |t| run(&transposed(t)?, PLAIN, None, residual_stages),
            |t| run(&transposed(t)?, PLAIN, None, composed::residual_stages),
        )?;
    let shapes = shapes(1, 4);
    let shapes: [&[usize]; 22] = std::array::from_fn(|i| shapes[i].as_slice());
    let mut t = tensors(&shapes)?;
    t[0] = Tensor::zeros((0, 4, DIM), DType::F32, &Device::Cpu)?;
    assert_eq!(run(&t, PLAIN, None, residual_stages)?.dims(), [0, 4, DIM]);
    Ok(())
}

#[test]
fn frozen_parameters_get_no_gradient_and_do_not_change_others() -> Result<()> {
    let shapes = shapes(2, 5);
    let shapes: [&[usize]; 22] = std::array::from_fn(|i| shapes[i].as_slice());
    let t = tensors(&shapes)?;
    let vars = t.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let all: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    // The input and the attention are frozen.
    let some: Vec<Tensor> = (0..t.len())
        .map(|i| if i < 8 { vars[i].as_detached_tensor() } else { all[i].clone() })
        .collect();
    let [of_all, of_some] =
        [all, some].map(|t| run(&t, PLAIN, None, residual_stages)?.sqr()?.backward());
    let (of_all, of_some) = (of_all?, of_some?);
    for (i, var) in vars.iter().enumerate() {
        let want = of_all.get(var).expect("a gradient").flatten_all()?.to_vec1::<f32>()?;
        let got = of_some.get(var).map(|grad| grad.flatten_all()?.to_vec1::<f32>()).transpose()?;
        assert_eq!(got, (i >= 8).then_some(want), "tensor {i}");
    }
    Ok(())
}

#[test]
fn wrong_shapes_are_named() -> Result<()> {
    let shapes = shapes(2, 5);
    let shapes: [&[usize]; 22] = std::array::from_fn(|i| shapes[i].as_slice());
    let t = tensors(&shapes)?;
    let said = |place: usize, by: Tensor| {
        let mut t = t.to_vec();
        t[place] = by;
        run(&t, PLAIN, None, residual_stages).unwrap_err().to_string()
    };
    let error = said(3, t[12].clone());
    assert!(error.contains("a weight of shape (outputs, 12)"), "{error}");
    let error = said(5, t[3].narrow(1, 0, 10)?.narrow(0, 0, 13)?.contiguous()?);
    assert!(error.contains("linear: expected a weight of shape (outputs, 20)"), "{error}");
    let mask = TokenMask::from_lengths(&[1, 2], 2)?;
    let error = run(&t, PLAIN, Some(&mask), residual_stages).unwrap_err().to_string();
    assert!(error.contains("a mask of shape (2, 5), got (2, 2)"), "{error}");
    Ok(())
}
