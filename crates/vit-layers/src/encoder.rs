//! The encoder: blocks and, with pre-norm, a final layer norm.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use vit_ops::{Queries, Stage, TokenMask, residual_stages};

use crate::layer_path::LayerPath;
use crate::{
    AttentionWeights, EncoderBlock, EncoderConfig, IntoPass, LayerNorm, NormPlacement, Pass,
};

/// `y = norm(block_depth(... block_1(x)))`, the Transformer encoder of the ViT paper (arXiv 2010.11929). With
/// post-norm, blocks end in a norm and none follows.
///
/// # Parameters
/// `blocks.0` to `blocks.{depth - 1}`; with pre-norm, `norm`
#[derive(Clone, Debug)]
pub struct Encoder {
    path: LayerPath,
    dim: usize,
    heads: usize,
    dtype: DType,
    blocks: Vec<EncoderBlock>,
    norm: Option<LayerNorm>,
}

impl Encoder {
    /// Creates an encoder with parameters from `vb`.
    ///
    /// # Errors
    /// If the configuration is invalid, or `vb` lacks a parameter or has another shape.
    pub fn new(cfg: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let path = LayerPath::configured("encoder", cfg.check(), vb)?;
        let blocks = (0..cfg.depth).map(|index| {
            // timm's rule: linearly from 0 at the first block to `drop_path` at the last.
            let share = index as f64 / (cfg.depth - 1).max(1) as f64;
            let cfg = EncoderConfig { drop_path: cfg.drop_path * share, ..cfg.clone() };
            EncoderBlock::new(&cfg, &vb.pp("blocks").pp(index))
        });
        let norm = match cfg.norm {
            NormPlacement::Pre => {
                Some(LayerNorm::new(cfg.dim, cfg.layer_norm_eps, &vb.pp("norm"))?)
            }
            NormPlacement::Post => None,
        };
        Ok(Self {
            path,
            dim: cfg.dim,
            heads: cfg.heads,
            dtype: vb.dtype(),
            blocks: blocks.collect::<Result<_>>()?,
            norm,
        })
    }

    /// For many forward passes of one sequence of 2 to 127 tokens on a CPU: copies weights in the order in which such a
    /// pass reads them, instead of at each pass. Outputs keep their bits. The copies are constants: later changes of the
    /// variables do not reach them.
    ///
    /// # Errors
    /// If memory is full.
    pub fn for_inference(mut self) -> Result<Self> {
        // After the last block's attention there may be one token, whose products read rows of the weights.
        let (last, blocks) = self.blocks.split_last_mut().expect("the depth was checked");
        blocks.iter_mut().try_for_each(|block| block.transpose_weights(Queries::All))?;
        last.transpose_weights(Queries::First)?;
        Ok(self)
    }

    /// # Shapes
    /// `xs` (batch, tokens, dim), a mask of (batch, tokens) -> (batch, tokens, dim), padded rows zero
    ///
    /// # Errors
    /// If `xs`, the mask or the bias has another shape or dtype, or there are no tokens.
    pub fn forward<'a>(&self, xs: &Tensor, pass: impl IntoPass<'a>) -> Result<Tensor> {
        self.forward_for(Queries::All, xs, pass.into_pass())
    }

    /// The first token's row of [`forward`](Self::forward), for a classifier that reads the first token or a class
    /// token. It skips what the last block computes only for the other tokens.
    ///
    /// # Shapes
    /// `xs` (batch, tokens, dim), a mask of (batch, tokens) -> (batch, 1, dim)
    ///
    /// # Errors
    /// Like [`forward`](Self::forward), or if a sample begins with padding.
    pub fn forward_first<'a>(&self, xs: &Tensor, pass: impl IntoPass<'a>) -> Result<Tensor> {
        let pass = pass.into_pass();
        if let Some(sample) = pass.mask().and_then(TokenMask::begins_with_padding) {
            let path = &self.path;
            bail!("{path}: expected a first token in each sample, got padding in sample {sample}");
        }
        self.forward_for(Queries::First, xs, pass)
    }

    /// Like [`forward`](Self::forward), and returns the attention weights. They are computed beside the forward pass,
    /// so they cost nothing unless you ask.
    ///
    /// # Shapes
    /// as [`forward`](Self::forward), and weights (batch, heads, tokens, tokens) of each block
    ///
    /// # Errors
    /// Like [`forward`](Self::forward).
    pub fn forward_with_weights<'a>(
        &self,
        xs: &Tensor,
        pass: impl IntoPass<'a>,
    ) -> Result<(Tensor, AttentionWeights)> {
        let pass = pass.into_pass();
        self.check(xs, pass)?;
        let mut weights = Vec::with_capacity(self.blocks.len());
        let mut ys = xs.clone();
        for block in &self.blocks {
            let (of_block, attended) = block.forward_with_weights(&ys, pass)?;
            weights.push(attended);
            ys = of_block;
        }
        Ok((self.normalised(&ys, pass)?, AttentionWeights::new(weights)))
    }

    /// Like [`forward`](Self::forward), and returns each block's output, first block first, before the final norm:
    /// features for a dense or multi-scale head.
    ///
    /// # Shapes
    /// as [`forward`](Self::forward), and features (batch, tokens, dim) of each block
    ///
    /// # Errors
    /// Like [`forward`](Self::forward).
    pub fn forward_with_features<'a>(
        &self,
        xs: &Tensor,
        pass: impl IntoPass<'a>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let pass = pass.into_pass();
        self.check(xs, pass)?;
        let mut features = Vec::with_capacity(self.blocks.len());
        let mut ys = xs.clone();
        for block in &self.blocks {
            ys = block.forward(&ys, pass)?;
            features.push(ys.clone());
        }
        Ok((self.normalised(&ys, pass)?, features))
    }

    /// All blocks as one operation.
    fn forward_for(&self, queries: Queries, xs: &Tensor, pass: Pass) -> Result<Tensor> {
        self.check(xs, pass)?;
        let (last, blocks) = self.blocks.split_last().expect("the depth was checked");
        let bias = pass.bias().filter(|_| queries == Queries::First);
        let of_first = bias.map(|bias| bias.narrow(2, 0, 1)).transpose()?;
        let of_last = of_first.as_ref().map_or(pass, |bias| pass.biased(bias));
        let mut stages: Vec<Stage> =
            blocks.iter().flat_map(|block| block.stages(Queries::All, pass)).collect();
        stages.extend(last.stages(queries, of_last));
        stages.extend(self.norm.as_ref().map(|norm| Stage::Norm(norm.norm())));
        residual_stages(xs, &stages, pass.mask())
    }

    fn normalised(&self, ys: &Tensor, pass: Pass) -> Result<Tensor> {
        match &self.norm {
            Some(norm) => residual_stages(ys, &[Stage::Norm(norm.norm())], pass.mask()),
            None => Ok(ys.clone()),
        }
    }

    fn check(&self, xs: &Tensor, pass: Pass) -> Result<()> {
        let (batch, tokens) = self.path.check_tokens("xs", xs, self.dim, self.dtype)?;
        self.path.check_pass("xs", pass, (batch, tokens), (self.heads, tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mode, Parameters, config::tiny};
    use candle_core::{Device, Var};
    use vit_random::{Random, Site};

    fn tokens(batch: usize, tokens: usize, dim: usize) -> Result<Tensor> {
        let mut stream = Random::new(5).stream(Site::named("test"), 0);
        let values: Vec<f32> = (0..batch * tokens * dim).map(|_| stream.normal() as f32).collect();
        Tensor::from_vec(values, (batch, tokens, dim), &Device::Cpu)
    }

    fn encoder(cfg: &EncoderConfig) -> Result<(Parameters, Encoder)> {
        let parameters = Parameters::seeded(3);
        let encoder = Encoder::new(cfg, &parameters.builder(DType::F32, &Device::Cpu))?;
        Ok((parameters, encoder))
    }

    fn largest_difference(xs: &Tensor, ys: &Tensor) -> Result<f32> {
        (xs - ys)?.abs()?.max_all()?.to_scalar()
    }

    #[test]
    fn every_parameter_gets_a_gradient() -> Result<()> {
        let mut cfg = tiny();
        cfg.drop_path = 0.2;
        let (parameters, encoder) = encoder(&cfg)?;
        let xs = Var::from_tensor(&tokens(4, 5, 8)?)?;
        let mode = Mode::Train(Random::new(1).at_step(1));
        let ys = encoder.forward(&xs, mode)?;
        // Weighted, because a plain sum after a layer norm has gradient zero.
        let gradients = (ys * tokens(4, 5, 8)?.sin()?)?.sum_all()?.backward()?;
        assert_eq!(parameters.sorted().len(), 2 * 12 + 2);
        for (name, var) in parameters.sorted() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has none"));
            assert!(gradient.abs()?.max_all()?.to_scalar::<f32>()? > 0.0, "{name} is zero");
        }
        assert!(gradients.get(&xs).is_some());
        Ok(())
    }

    #[test]
    fn permuting_tokens_permutes_outputs() -> Result<()> {
        let (_parameters, encoder) = encoder(&tiny())?;
        let xs = tokens(2, 4, 8)?;
        let order = Tensor::new(&[2_u32, 0, 3, 1], &Device::Cpu)?;
        let permuted = encoder.forward(&xs.index_select(&order, 1)?, Mode::Eval)?;
        let want = encoder.forward(&xs, Mode::Eval)?.index_select(&order, 1)?;
        assert!(largest_difference(&permuted, &want)? < 1e-5);
        Ok(())
    }

    #[test]
    fn shard_trains_like_the_whole_batch() -> Result<()> {
        let (_parameters, encoder) = encoder(&tiny())?;
        let xs = tokens(6, 4, 8)?;
        let random = Random::new(1).at_step(2);
        let whole = encoder.forward(&xs, Mode::Train(random))?.narrow(0, 4, 2)?;
        let shard = encoder.forward(&xs.narrow(0, 4, 2)?, Mode::Train(random.from_sample(4)))?;
        assert!(largest_difference(&whole, &shard)? < 1e-5);
        Ok(())
    }

    #[test]
    fn forward_first_equals_first_row_of_forward() -> Result<()> {
        let mut cfg = tiny();
        cfg.drop_path = 0.2;
        let (parameters, encoder) = encoder(&cfg)?;
        let xs = Var::from_tensor(&tokens(4, 5, 8)?)?;
        for mode in [Mode::Eval, Mode::Train(Random::new(1).at_step(2))] {
            let all = encoder.forward(&xs, mode)?.narrow(1, 0, 1)?;
            let first = encoder.forward_first(&xs, mode)?;
            assert!(largest_difference(&first, &all)? < 1e-6);
            let weigh = tokens(4, 1, 8)?;
            let of_all = (all * &weigh)?.sum_all()?.backward()?;
            let of_first = (first * &weigh)?.sum_all()?.backward()?;
            for (name, var) in parameters.sorted() {
                let both = [&of_all, &of_first].map(|grads| grads.get(&var));
                let [Some(want), Some(got)] = both else { panic!("{name} has no gradient") };
                assert!(largest_difference(got, want)? < 1e-5, "{name}");
            }
        }
        Ok(())
    }

    #[test]
    fn inference_keeps_every_bit() -> Result<()> {
        for norm in [NormPlacement::Pre, NormPlacement::Post] {
            let (_parameters, encoder) = encoder(&EncoderConfig { norm, ..tiny() })?;
            let copied = encoder.clone().for_inference()?;
            for samples in [1, 4, 40] {
                let xs = tokens(samples, 5, 8)?;
                let outputs = |of: &Encoder| -> Result<[Tensor; 3]> {
                    Ok([
                        of.forward(&xs, Mode::Eval)?,
                        of.forward_first(&xs, Mode::Eval)?,
                        of.forward_with_weights(&xs, Mode::Eval)?.0,
                    ])
                };
                for (want, got) in outputs(&encoder)?.iter().zip(&outputs(&copied)?) {
                    assert_eq!(largest_difference(want, got)?, 0.0, "{norm:?}, {samples}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn empty_batch_gives_empty_batch() -> Result<()> {
        let (_parameters, encoder) = encoder(&tiny())?;
        let xs = Tensor::zeros((0, 4, 8), DType::F32, &Device::Cpu)?;
        assert_eq!(encoder.forward(&xs, Mode::Eval)?.dims(), [0, 4, 8]);
        assert_eq!(encoder.forward_first(&xs, Mode::Eval)?.dims(), [0, 1, 8]);
        Ok(())
    }

    #[test]
    fn wrong_width_and_missing_tokens_are_named() -> Result<()> {
        let (_parameters, encoder) = encoder(&tiny())?;
        for (shape, got) in [((1, 4, 7), "[1, 4, 7]"), ((1, 0, 8), "[1, 0, 8]")] {
            let xs = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
            let error = encoder.forward(&xs, Mode::Eval).unwrap_err().to_string();
            assert!(error.contains("expected xs of shape (batch, tokens, 8)"), "{error}");
            assert!(error.contains(got), "{error}");
        }
        Ok(())
    }
}
