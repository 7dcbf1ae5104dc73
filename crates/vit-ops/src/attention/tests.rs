//! Tests of both fused forms.

use candle_core::DType;
use vit_random::{Random, Site};

use super::*;
use crate::DropRate;
use crate::parallel::tests::assert_threads_do_not_show;
use crate::testing::{Case, tensors};

fn dropout() -> DropoutSource {
    DropoutSource {
        rate: DropRate::new(0.3).expect("a rate in [0, 1)"),
        site: Site::named("test"),
        random: Random::new(4).at_step(1),
    }
}

/// A mask that pads the first sample's last tokens.
pub(super) fn mask(batch: usize, tokens: usize) -> Result<TokenMask> {
    let length = |sample| if sample == 0 { tokens.div_ceil(2) } else { tokens };
    TokenMask::from_lengths(&(0..batch).map(length).collect::<Vec<_>>(), tokens)
}

/// A bias for self-attention with one negative infinity.
pub(super) fn bias(heads: usize, tokens: usize) -> Result<Tensor> {
    bias_for(heads, (tokens, tokens))
}

fn bias_for(heads: usize, (queries, tokens): (usize, usize)) -> Result<Tensor> {
    let [bias] = tensors(&[&[1, heads, queries, tokens]])?;
    let mut values = bias.flatten_all()?.to_vec1::<f32>()?;
    if tokens > 1 {
        values[tokens / 2] = f32::NEG_INFINITY;
    }
    Tensor::from_vec(values, bias.shape(), bias.device())
}

/// Every kind of attention: with and without dropout, each with a mask, causal, with a bias, and plain.
pub(super) fn variants<'a>(heads: usize, mask: &'a TokenMask, bias: &'a Tensor) -> Vec<Attend<'a>> {
    let plain = Attend::new(heads, 0.35);
    let seen = [
        plain,
        Attend { mask: Some(mask), ..plain },
        Attend { causal: true, ..plain },
        Attend { bias: Some(bias), ..plain },
        Attend { mask: Some(mask), causal: true, bias: Some(bias), ..plain },
    ];
    let with = |attend| [None, Some(dropout())].map(|dropout| Attend { dropout, ..attend });
    seen.into_iter().flat_map(with).collect()
}

/// The same for the selected queries.
pub(super) fn for_queries<'a>(
    queries: Queries,
    attend: Attend<'a>,
    of_first: &'a Tensor,
) -> Attend<'a> {
    match queries {
        Queries::All => attend,
        Queries::First => Attend { bias: attend.bias.map(|_| of_first), ..attend },
    }
}

fn largest_difference(xs: &Tensor, ys: &Tensor) -> Result<f32> {
    (xs - ys)?.abs()?.max_all()?.to_scalar()
}

#[test]
fn fused_equals_composed_forward_and_backward() -> Result<()> {
    for (batch, tokens, heads, head_dim) in [
        (1, 1, 1, 1),
        (2, 5, 3, 7),
        (3, 16, 4, 8),
        (1, 17, 2, 64),
        (2, 33, 1, 12),
        (1, 3, 2, 100),
        (2, 9, 2, 20),
        (2, 9, 3, 8),
        (1, 5, 2, 32),
        (1, 6, 2, 128),
        (2, 20, 1, 40),
        (1, 130, 2, 8),
        (1, 40, 2, 40),
        (1, 3, 1, 130),
    ] {
        let case = Case::new(&[&[batch, tokens, 3 * heads * head_dim]])?;
        let (mask, bias) = (mask(batch, tokens)?, bias(heads, tokens)?);
        let of_first = bias.narrow(2, 0, 1)?.contiguous()?;
        for attend in variants(heads, &mask, &bias) {
            for queries in [Queries::All, Queries::First] {
                let attend = for_queries(queries, attend, &of_first);
                case.fused_equals_composed(
                    |t| self_attention(&t[0], queries, &attend),
                    |t| composed::self_attention(&t[0], queries, &attend),
                )?;
            }
        }
    }
    Ok(())
}

#[test]
fn cross_attention_fused_equals_composed() -> Result<()> {
    for (batch, queries, tokens, heads, head_dim) in [
        (1, 1, 1, 1, 1),
        (2, 7, 3, 2, 5),
        (2, 3, 19, 3, 16),
        (3, 1, 16, 4, 8),
        (1, 40, 33, 1, 40),
        (2, 5, 130, 2, 8),
        (1, 140, 3, 1, 130),
    ] {
        let dim = heads * head_dim;
        let case = Case::new(&[&[batch, queries, dim], &[batch, tokens, 2 * dim]])?;
        let (mask, bias) = (mask(batch, tokens)?, bias_for(heads, (queries, tokens))?);
        for attend in variants(heads, &mask, &bias) {
            case.fused_equals_composed(
                |t| cross_attention(&t[0], &t[1], &attend),
                |t| composed::cross_attention(&t[0], &t[1], &attend),
            )?;
        }
    }
    Ok(())
}

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    let mask = mask(2, 3)?;
    let (bias, of_two) =
        (bias(2, 3)?.to_dtype(DType::F64)?, bias_for(2, (2, 3))?.to_dtype(DType::F64)?);
    for attend in variants(2, &mask, &bias) {
        Case::new(&[&[2, 3, 12]])?.gradients_match_differences(|t| {
            composed::self_attention(&t[0], Queries::All, &attend)
        })?;
        let attend = Attend { bias: attend.bias.map(|_| &of_two), ..attend };
        Case::new(&[&[2, 2, 4], &[2, 3, 8]])?
            .gradients_match_differences(|t| composed::cross_attention(&t[0], &t[1], &attend))?;
    }
    for shape in [[1, 2], [2, 2], [1, 1], [2, 1]] {
        let [b, h] = shape;
        Case::new(&[&[2, 3, 12], &[b, h, 3, 3]])?.gradients_match_differences(|t| {
            let attend = Attend { bias: Some(&t[1]), causal: true, ..Attend::new(2, 0.35) };
            composed::self_attention(&t[0], Queries::All, &attend)
        })?;
    }
    Ok(())
}

#[test]
fn self_attention_equals_cross_attention_to_itself() -> Result<()> {
    for tokens in [6, 130] {
        let [qkv] = tensors(&[&[2, tokens, 3 * 16]])?;
        let (q, kv) = (qkv.narrow(2, 0, 16)?, qkv.narrow(2, 16, 32)?);
        let (mask, bias) = (mask(2, tokens)?, bias(2, tokens)?);
        for attend in variants(2, &mask, &bias) {
            let to_itself = self_attention(&qkv, Queries::All, &attend)?;
            let to_another = cross_attention(&q, &kv, &attend)?;
            assert_eq!(to_itself.to_vec3::<f32>()?, to_another.to_vec3::<f32>()?);
        }
    }
    Ok(())
}

#[test]
fn output_equals_weights_times_values() -> Result<()> {
    let [q, k, v] = tensors(&[&[2, 5, 6], &[2, 4, 6], &[2, 4, 6]])?;
    let mask = mask(2, 4)?;
    let attend = Attend { mask: Some(&mask), ..Attend::new(1, 0.35) };
    let weights = attention_weights(&q, &k, &attend)?;
    assert_eq!(weights.dims(), [2, 1, 5, 4]);
    let want = weights.squeeze(1)?.matmul(&v)?;
    let got = cross_attention(&q, &Tensor::cat(&[&k, &v], 2)?, &attend)?;
    assert!(largest_difference(&got, &want)? < 1e-6);
    // The first sample has two of four tokens.
    assert_eq!(weights.narrow(0, 0, 1)?.narrow(3, 2, 2)?.max_all()?.to_scalar::<f32>()?, 0.0);
    Ok(())
}

fn biased(causal: bool) -> impl Fn(&Tensor) -> Attend<'_> {
    move |bias| Attend { bias: Some(bias), causal, ..Attend::new(2, 0.35) }
}

#[test]
fn learned_bias_has_the_composed_gradient_in_every_shape() -> Result<()> {
    for (tokens, head_dim) in [(5, 3), (40, 8), (40, 40)] {
        for [b, h] in [[1, 2], [3, 2], [1, 1], [3, 1]] {
            let case = Case::new(&[&[3, tokens, 6 * head_dim], &[b, h, tokens, tokens]])?;
            for causal in [false, true] {
                let attend = biased(causal);
                case.fused_equals_composed(
                    |t| self_attention(&t[0], Queries::All, &attend(&t[1])),
                    |t| composed::self_attention(&t[0], Queries::All, &attend(&t[1])),
                )?;
            }
        }
    }
    let case = Case::new(&[&[2, 3, 12], &[2, 5, 24], &[1, 2, 3, 5]])?;
    let attend = biased(false);
    case.fused_equals_composed(
        |t| cross_attention(&t[0], &t[1], &attend(&t[2])),
        |t| composed::cross_attention(&t[0], &t[1], &attend(&t[2])),
    )
}

#[test]
fn causal_outputs_do_not_depend_on_later_tokens() -> Result<()> {
    for (tokens, seen, head_dim) in [(9, 4, 8), (70, 33, 8), (150, 131, 40)] {
        let [qkv] = tensors(&[&[2, tokens, 6 * head_dim]])?;
        let attend = Attend { causal: true, ..Attend::new(2, 0.35) };
        let whole = self_attention(&qkv, Queries::All, &attend)?.narrow(1, 0, seen)?;
        let later = qkv.narrow(1, seen, tokens - seen)?.affine(5.0, 1.0)?;
        let changed = Tensor::cat(&[&qkv.narrow(1, 0, seen)?, &later], 1)?;
        let changed = self_attention(&changed, Queries::All, &attend)?.narrow(1, 0, seen)?;
        assert_eq!(whole.to_vec3::<f32>()?, changed.to_vec3::<f32>()?, "{tokens} tokens");
    }
    Ok(())
}

#[test]
fn query_without_keys_gives_zeros_and_finite_gradients() -> Result<()> {
    let there = Tensor::new(&[[0_u8, 0, 1, 1, 1]], &candle_core::Device::Cpu)?;
    let mask = TokenMask::new(&there)?;
    let attend = Attend { mask: Some(&mask), causal: true, ..Attend::new(2, 0.35) };
    let [qkv] = tensors(&[&[1, 5, 24]])?;
    type Form = fn(&Tensor, Queries, &Attend) -> Result<Tensor>;
    let forms: [Form; 2] = [self_attention, composed::self_attention];
    for form in forms {
        let var = candle_core::Var::from_tensor(&qkv)?;
        let ys = form(&var, Queries::All, &attend)?;
        assert_eq!(ys.narrow(1, 0, 2)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
        let grads = ys.sqr()?.backward()?;
        let sum = grads.get(&var).expect("a gradient").abs()?.sum_all()?.to_scalar::<f32>()?;
        assert!(sum.is_finite() && sum > 0.0, "{sum}");
    }
    Ok(())
}

#[test]
fn padding_content_does_not_change_outputs() -> Result<()> {
    for (tokens, more) in [(5, 7), (16, 40), (130, 140)] {
        let [qkv] = tensors(&[&[2, more, 3 * 16]])?;
        let whole = |filler: f64| {
            let kept = qkv.narrow(1, 0, tokens)?;
            let filler = qkv.narrow(1, tokens, more - tokens)?.affine(filler, filler)?;
            let qkv = Tensor::cat(&[&kept, &filler], 1)?;
            let mask = TokenMask::from_lengths(&[tokens, tokens], more)?;
            let attend = Attend { mask: Some(&mask), ..Attend::new(2, 0.35) };
            self_attention(&qkv, Queries::All, &attend)?.narrow(1, 0, tokens)?.to_vec3::<f32>()
        };
        assert_eq!(whole(0.0)?, whole(100.0)?);
    }
    Ok(())
}

#[test]
fn empty_input_gives_empty_output() -> Result<()> {
    let attend = Attend::new(2, 0.5);
    for (shape, first) in [([0, 4, 24], 1), ([2, 0, 24], 0)] {
        let [qkv] = tensors(&[&shape])?;
        let all = self_attention(&qkv, Queries::All, &attend)?;
        assert_eq!(all.dims(), [shape[0], shape[1], 8]);
        let of_first = self_attention(&qkv, Queries::First, &attend)?;
        assert_eq!(of_first.dims(), [shape[0], first, 8]);
    }
    let [q, kv] = tensors(&[&[2, 0, 8], &[2, 3, 16]])?;
    assert_eq!(cross_attention(&q, &kv, &attend)?.dims(), [2, 0, 8]);
    Ok(())
}

#[test]
fn first_query_equals_first_row_of_all_queries() -> Result<()> {
    // Few tokens, and enough for products, whose last bits depend on their shape.
    for (tokens, tolerance) in [(5, 0.0), (130, 1e-6)] {
        let [qkv] = tensors(&[&[3, tokens, 24]])?;
        let (mask, bias) = (mask(3, tokens)?, bias(2, tokens)?);
        let of_first = bias.narrow(2, 0, 1)?.contiguous()?;
        for attend in variants(2, &mask, &bias) {
            let all = self_attention(&qkv, Queries::All, &attend)?.narrow(1, 0, 1)?;
            let attend = for_queries(Queries::First, attend, &of_first);
            let first = self_attention(&qkv, Queries::First, &attend)?;
            let difference = largest_difference(&first, &all)?;
            assert!(difference <= tolerance, "{tokens} tokens: {difference}");
        }
    }
    Ok(())
}

#[test]
fn transposed_input_gives_the_same_result() -> Result<()> {
    let attend = Attend::new(2, 0.5);
    Case::new(&[&[5, 2, 24]])?.fused_equals_composed(
        |t| self_attention(&t[0].transpose(0, 1)?, Queries::All, &attend),
        |t| {
            let qkv = t[0].transpose(0, 1)?.contiguous()?;
            composed::self_attention(&qkv, Queries::All, &attend)
        },
    )
}

#[test]
fn untracked_input_gives_the_same_output() -> Result<()> {
    let [qkv] = tensors(&[&[3, 5, 24]])?;
    let tracked = candle_core::Var::from_tensor(&qkv)?;
    let (mask, bias) = (mask(3, 5)?, bias(2, 5)?);
    for attend in variants(2, &mask, &bias) {
        let with = self_attention(&tracked, Queries::All, &attend)?;
        let without = self_attention(&qkv, Queries::All, &attend)?;
        assert_eq!(with.to_vec3::<f32>()?, without.to_vec3::<f32>()?);
    }
    Ok(())
}

/// Cached features as context, or fixed queries.
#[test]
fn either_sequence_may_be_untracked() -> Result<()> {
    for tokens in [5, 130] {
        let [q, kv] = tensors(&[&[2, 3, 16], &[2, tokens, 32]])?;
        let attend = Attend::new(2, 0.35);
        let (q_var, kv_var) =
            (candle_core::Var::from_tensor(&q)?, candle_core::Var::from_tensor(&kv)?);
        let both = cross_attention(&q_var, &kv_var, &attend)?.sqr()?.backward()?;
        let of_q = cross_attention(&q_var, &kv, &attend)?.sqr()?.backward()?;
        let of_kv = cross_attention(&q, &kv_var, &attend)?.sqr()?.backward()?;
        for (var, alone) in [(&q_var, of_q), (&kv_var, of_kv)] {
            let (want, got) = (both.get(var).expect("tracked"), alone.get(var).expect("tracked"));
            assert_eq!(got.to_vec3::<f32>()?, want.to_vec3::<f32>()?);
        }
    }
    Ok(())
}

#[test]
fn threads_do_not_change_a_bit() -> Result<()> {
    // Enough samples of few tokens to be split.
    let [qkv] = tensors(&[&[256, 16, 3 * 32]])?;
    let (mask, bias) = (mask(256, 16)?, bias(4, 16)?);
    for attend in variants(4, &mask, &bias) {
        assert_threads_do_not_show(|| {
            let var = candle_core::Var::from_tensor(&qkv).expect("a variable");
            let ys = self_attention(&var, Queries::All, &attend).expect("an output");
            let grads = ys.sqr().and_then(|ys| ys.backward()).expect("gradients");
            let grad = grads.get(&var).expect("a gradient").to_vec3::<f32>();
            (ys.to_vec3::<f32>().expect("a tensor"), grad.expect("a tensor"))
        });
    }
    Ok(())
}

#[test]
fn permuting_tokens_permutes_outputs() -> Result<()> {
    let [qkv] = tensors(&[&[1, 4, 24]])?;
    let attend = Attend::new(2, 0.5);
    let order = Tensor::new(&[2_u32, 0, 3, 1], qkv.device())?;
    let permuted = self_attention(&qkv.index_select(&order, 1)?, Queries::All, &attend)?;
    let want = self_attention(&qkv, Queries::All, &attend)?.index_select(&order, 1)?;
    assert!(largest_difference(&permuted, &want)? < 1e-6);
    Ok(())
}

#[test]
fn wrong_shapes_are_named() -> Result<()> {
    let attend = Attend::new(2, 0.5);
    let [qkv, q, kv] = tensors(&[&[1, 4, 20], &[1, 4, 6], &[1, 3, 14]])?;
    let error = self_attention(&qkv, Queries::All, &attend).unwrap_err().to_string();
    assert!(error.contains("with 2 heads, got [1, 4, 20]"), "{error}");
    let error = cross_attention(&q, &kv, &attend).unwrap_err().to_string();
    assert!(error.contains("got [1, 4, 6] and [1, 3, 14]"), "{error}");
    let mask = mask(1, 5)?;
    let attend = Attend { mask: Some(&mask), ..attend };
    let error = self_attention(&qkv.narrow(2, 0, 12)?, Queries::All, &attend);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("expected a mask of shape (1, 4), got (1, 5)"), "{error}");
    let bias = bias(3, 4)?;
    let attend = Attend { mask: None, bias: Some(&bias), ..attend };
    let error = self_attention(&qkv.narrow(2, 0, 12)?, Queries::All, &attend);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("a bias of shape (1 or 1, 1 or 2, 4, 4), got [1, 3, 4, 4]"), "{error}");
    Ok(())
}
