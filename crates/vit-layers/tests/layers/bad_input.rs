//! An error names the layer, what it expected and what it got.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use vit_layers::{
    Attention, AttentionConfig, AttentionWeights, CrossAttention, DropPath, Dropout, Encoder,
    EncoderBlock, EncoderConfig, FeedForward, FeedForwardConfig, LayerNorm, Linear, Mode,
    Parameters, Pass, Random, TokenMask,
};

fn vb() -> VarBuilder<'static> {
    Parameters::seeded(1).builder(DType::F32, &Device::Cpu)
}

fn zeros(shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::zeros(shape.into(), DType::F32, &Device::Cpu)
}

#[track_caller]
fn assert_says<T>(result: Result<T>, want: &str) {
    let Err(error) = result else { panic!("expected an error: {want}") };
    let error = error.to_string();
    assert!(error.lines().next().is_some_and(|line| line == want), "{error}\nexpected: {want}");
}

#[test]
fn wrong_width_empty_sequence_and_wrong_rank_are_named() -> Result<()> {
    let cfg = EncoderConfig::new(8, 2, 2);
    let vb = vb();
    let encoder = Encoder::new(&cfg, &vb)?;
    let block = EncoderBlock::new(&cfg, &vb.pp("block"))?;
    let attention = Attention::new(&cfg.attention(), &vb.pp("attn"))?;
    for (shape, got) in
        [(&[1, 4, 7][..], "[1, 4, 7]"), (&[1, 0, 8], "[1, 0, 8]"), (&[4, 8], "[4, 8]")]
    {
        let xs = zeros(shape)?;
        let want = |layer: &str| {
            format!(
                "{layer}: expected xs of shape (batch, tokens, 8) with at least one token, got {got}"
            )
        };
        assert_says(encoder.forward(&xs, Mode::Eval), &want("encoder"));
        assert_says(encoder.forward_first(&xs, Mode::Eval), &want("encoder"));
        assert_says(block.forward(&xs, Mode::Eval), &want("block"));
        assert_says(attention.forward(&xs, Mode::Eval), &want("attn"));
    }
    let xs = zeros((1, 4, 7))?;
    let mlp = FeedForward::new(&cfg.feed_forward(), &vb.pp("mlp"))?;
    let want =
        "mlp: expected xs of shape (batch, tokens, 8) with at least one token, got [1, 4, 7]";
    assert_says(mlp.forward(&xs, Mode::Eval), want);
    let norm = LayerNorm::new(8, 1e-5, &vb.pp("tail"))?;
    assert_says(norm.forward(&xs), "tail: expected xs of shape (..., 8), got [1, 4, 7]");
    let linear = Linear::new(8, 3, vit_layers::Bias::Yes, &vb.pp("head"))?;
    assert_says(linear.forward(&xs), "head: expected xs of shape (..., 8), got [1, 4, 7]");
    Ok(())
}

#[test]
fn context_of_wrong_shape_is_named() -> Result<()> {
    let layer = CrossAttention::new(&AttentionConfig::new(8, 2), 5, &vb().pp("decoder.cross"))?;
    let xs = zeros((2, 3, 8))?;
    let forward = |shape: &[usize]| layer.forward(&xs, &zeros(shape)?, Mode::Eval);
    let expected =
        "decoder.cross: expected context of shape (batch, tokens, 5) with at least one token";
    assert_says(forward(&[2, 4, 8]), &format!("{expected}, got [2, 4, 8]"));
    assert_says(forward(&[2, 0, 5]), &format!("{expected}, got [2, 0, 5]"));
    let want = "decoder.cross: expected a context of 2 samples as xs, got 3";
    assert_says(forward(&[3, 4, 5]), want);
    Ok(())
}

#[test]
fn mask_of_wrong_shape_is_named() -> Result<()> {
    let encoder = Encoder::new(&EncoderConfig::new(8, 2, 2), &vb())?;
    for mask in [TokenMask::from_lengths(&[3], 4)?, TokenMask::from_lengths(&[3, 3], 3)?] {
        let pass = Pass::from(Mode::Eval).masked(&mask);
        let got = (mask.batch(), mask.tokens());
        let want = format!("encoder: expected a mask of xs of shape (2, 4), got {got:?}");
        assert_says(encoder.forward(&zeros((2, 4, 8))?, pass), &want);
    }
    Ok(())
}

#[test]
fn mask_of_another_sequence_and_padded_first_token_are_named() -> Result<()> {
    let (cfg, vb) = (EncoderConfig::new(8, 1, 2), vb());
    let layer = CrossAttention::new(&cfg.attention(), 5, &vb.pp("cross"))?;
    let mask = TokenMask::from_lengths(&[3, 1], 3)?;
    let pass = Pass::from(Mode::Eval).masked(&mask);
    let want = "cross: expected a mask of the context of shape (2, 4), got (2, 3)";
    assert_says(layer.forward(&zeros((2, 3, 8))?, &zeros((2, 4, 5))?, pass), want);
    let encoder = Encoder::new(&cfg, &vb.pp("text"))?;
    let mask = TokenMask::padding(&Tensor::new(&[[1_u8, 1], [0, 1]], &Device::Cpu)?)?;
    let pass = Pass::from(Mode::Eval).masked(&mask);
    let want = "text: expected a first token in each sample, got padding in sample 1";
    assert_says(encoder.forward_first(&zeros((2, 2, 8))?, pass), want);
    Ok(())
}

#[test]
fn bias_of_wrong_shape_is_named() -> Result<()> {
    let vb = vb();
    let encoder = Encoder::new(&EncoderConfig::new(8, 2, 2), &vb)?;
    let cross = CrossAttention::new(&AttentionConfig::new(8, 2), 5, &vb.pp("cross"))?;
    let bias = zeros((1, 3, 4, 4))?;
    let pass = Pass::from(Mode::Eval).biased(&bias);
    let expected = "expected a bias of shape (1 or 3, 1 or 2, 4, ";
    let want = format!("encoder: {expected}4), got [1, 3, 4, 4]");
    assert_says(encoder.forward(&zeros((3, 4, 8))?, pass), &want);
    assert_says(encoder.forward_first(&zeros((3, 4, 8))?, pass), &want);
    let want = format!("cross: {expected}6), got [1, 3, 4, 4]");
    assert_says(cross.forward(&zeros((3, 4, 8))?, &zeros((3, 6, 5))?, pass), &want);
    Ok(())
}

#[test]
fn two_layers_on_one_path_are_rejected_unless_shared() -> Result<()> {
    let parameters = Parameters::seeded(1);
    let cfg = EncoderConfig::new(8, 1, 2);
    let vb = parameters.builder(DType::F32, &Device::Cpu);
    Encoder::new(&cfg, &vb)?;
    let want = "parameter norm.weight: expected one layer to ask for it, got a second";
    assert_says(Encoder::new(&cfg, &vb).map(drop), want);
    // Layers that evaluate have their own builder.
    Encoder::new(&cfg, &parameters.detached_builder(DType::F32, &Device::Cpu))?;
    parameters.share("norm.weight");
    parameters.share("norm.bias");
    let want = "parameter blocks.0.norm1.weight: expected one layer to ask for it, got a second";
    assert_says(Encoder::new(&cfg, &vb).map(drop), want);
    parameters.share("blocks");
    Encoder::new(&cfg, &vb)?;
    Ok(())
}

#[test]
fn invalid_rotary_base_and_odd_head_width_are_named() {
    let vb = vb().pp("attn");
    let odd = AttentionConfig { rotary: Some(1e4), ..AttentionConfig::new(9, 3) };
    let want = "attn: expected rotary with a positive base and heads of an even width, got a base of 10000 and 3";
    assert_says(Attention::new(&odd, &vb).map(drop), want);
    let cfg = AttentionConfig { rotary: Some(1e4), ..AttentionConfig::new(8, 2) };
    let want = "attn: expected no rotary positions between two sequences, got a base of 10000";
    assert_says(CrossAttention::new(&cfg, 5, &vb).map(drop), want);
}

#[test]
fn heads_that_do_not_divide_dim_are_named() {
    let vb = vb().pp("decoder.cross");
    let want = "decoder.cross: expected heads that divide dim, got 3 heads for a dim of 8";
    let cfg = EncoderConfig::new(8, 2, 3);
    assert_says(Encoder::new(&cfg, &vb).map(drop), want);
    assert_says(EncoderBlock::new(&cfg, &vb).map(drop), want);
    assert_says(Attention::new(&cfg.attention(), &vb).map(drop), want);
    assert_says(CrossAttention::new(&cfg.attention(), 5, &vb).map(drop), want);
    let want = "decoder.cross: expected mlp_dim of at least 1, got 0";
    let cfg = FeedForwardConfig { mlp_dim: 0, ..FeedForwardConfig::new(8) };
    assert_says(FeedForward::new(&cfg, &vb).map(drop), want);
}

#[test]
fn invalid_layer_settings_are_named() -> Result<()> {
    let vb = vb().pp("tail");
    let want = "tail: expected a positive eps, got NaN";
    assert_says(LayerNorm::new(8, f64::NAN, &vb).map(drop), want);
    let want = "tail: expected at least one input and output, got 0 and 4";
    assert_says(Linear::new(0, 4, vit_layers::Bias::Yes, &vb).map(drop), want);
    let want = "tail: expected a rate in [0, 1), got 1";
    assert_says(Dropout::new(1.0, &vb).map(drop), want);
    assert_says(DropPath::new(1.0, &vb).map(drop), want);
    let train = Mode::Train(Random::new(1));
    let scalar = zeros(())?;
    let want = "tail: expected xs of shape (batch, ...), got a scalar";
    assert_says(Dropout::new(0.5, &vb)?.forward(&scalar, train), want);
    assert_says(DropPath::new(0.5, &vb)?.forward(&scalar, train), want);
    let want = "attention weights: expected the weights of at least one block, got none";
    assert_says(AttentionWeights::from_layers(Vec::new()).map(drop), want);
    Ok(())
}

#[test]
fn checkpoint_with_missing_extra_or_misshapen_tensors_is_named() -> Result<()> {
    let cfg = EncoderConfig::new(8, 1, 2);
    let whole = Parameters::seeded(1);
    Encoder::new(&cfg, &whole.builder(DType::F32, &Device::Cpu).pp("encoder"))?;
    let checkpoint =
        || whole.sorted().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    let open = |checkpoint: Vec<(String, Tensor)>| {
        let parameters = Parameters::from_tensors(checkpoint);
        Encoder::new(&cfg, &parameters.builder(DType::F32, &Device::Cpu).pp("encoder"))?;
        parameters.expect_all_used()
    };
    open(checkpoint().collect())?;
    let lacking = checkpoint().filter(|(name, _)| name != "encoder.blocks.0.mlp.fc2.bias");
    let want = "parameter encoder.blocks.0.mlp.fc2.bias: expected shape [8], the checkpoint has no such name";
    assert_says(open(lacking.collect()), want);
    let adding = checkpoint().chain([("encoder.tail".to_owned(), zeros(3)?)]);
    let want =
        "checkpoint: expected no parameter that no layer asks for, got encoder.tail of shape [3]";
    assert_says(open(adding.collect()), want);
    let narrow = checkpoint().map(|(name, tensor)| {
        let tensor = if name == "encoder.norm.weight" { zeros(7)? } else { tensor };
        Ok((name, tensor))
    });
    let want = "parameter encoder.norm.weight: expected shape [8], got [7]";
    assert_says(open(narrow.collect::<Result<_>>()?), want);
    Ok(())
}
