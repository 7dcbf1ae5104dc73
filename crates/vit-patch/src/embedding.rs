//! Images to tokens (ViT, arXiv 2010.11929, eq. 1).

use candle_core::{Module, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use crate::position::sincos2d;
use crate::{PatchConfig, PatchSize, Position, PositionRows, patchify};

/// Initial standard deviation of position table, class token and registers, as in the ViT paper's code.
const TABLE_DEVIATION: f64 = 0.02;

/// Whether a learned class token precedes the patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassToken {
    /// Token 0 is learned; the patches follow.
    Prepended,
    /// Patches only.
    Absent,
}

impl ClassToken {
    /// The number of class tokens.
    #[must_use]
    pub const fn tokens(self) -> usize {
        match self {
            Self::Prepended => 1,
            Self::Absent => 0,
        }
    }
}

/// `tokens = [class; registers; W patch + b] + positions`.
///
/// PyTorch equivalent: `timm.layers.PatchEmbed` with the class token, registers and positions of timm's
/// `VisionTransformer`.
///
/// # Parameters
/// `patch_embed.proj.weight` (dim, channels, patch height, patch width), `patch_embed.proj.bias` (dim),
/// `cls_token` (1, 1, dim) if there is one, `reg_token` (1, registers, dim) if there are any, and for the positions
/// `pos_embed` (1, tokens, dim) if learned ((1, patches, dim) if of [`PositionRows::Patches`]), or
/// `pos_embed.proj.{weight,bias}` as the patch embedding's if `patch_linear`
#[derive(Clone, Debug)]
pub struct PatchEmbedding {
    /// The parameters' path, for error messages.
    path: String,
    config: PatchConfig,
    proj: PatchLinear,
    /// The class token, the registers: each (1, count, dim).
    prefix: Vec<Tensor>,
    positions: Positions,
}

#[derive(Clone, Debug)]
enum Positions {
    None,
    /// (1, patches, dim), added to the patches.
    OfPatches(Tensor),
    /// (1, tokens, dim), added after the prefix.
    OfTokens(Tensor),
    PatchLinear(PatchLinear),
}

impl PatchEmbedding {
    /// Creates an embedding with parameters from `vb`.
    ///
    /// # Errors
    /// If the configuration is invalid, or `vb` lacks a parameter or has another shape.
    pub fn new(config: &PatchConfig, class_token: ClassToken, vb: &VarBuilder) -> Result<Self> {
        config.check().map_err(candle_core::Error::wrap)?;
        let dim = config.dim;
        let init = Init::Randn { mean: 0.0, stdev: TABLE_DEVIATION };
        let table = |name: &str, rows: usize| vb.get_with_hints((1, rows, dim), name, init);
        let positions = match (config.position, config.position_rows) {
            (Position::None, _) => Positions::None,
            (Position::Learned, PositionRows::Tokens) => {
                Positions::OfTokens(table("pos_embed", config.tokens(class_token))?)
            }
            (Position::Learned, PositionRows::Patches) => {
                Positions::OfPatches(table("pos_embed", config.patches())?)
            }
            (Position::Sincos2d, _) => {
                let patches = sincos2d(config.grid(), dim, vb.dtype(), vb.device())?;
                Positions::OfPatches(patches.unsqueeze(0)?)
            }
            (Position::PatchLinear, _) => {
                Positions::PatchLinear(PatchLinear::new(config, &vb.pp("pos_embed").pp("proj"))?)
            }
        };
        let learned = [("cls_token", class_token.tokens()), ("reg_token", config.registers)];
        let learned = learned.into_iter().filter(|&(_, count)| count > 0);
        let prefix = learned.map(|(name, count)| table(name, count)).collect::<Result<_>>()?;
        let proj = PatchLinear::new(config, &vb.pp("patch_embed").pp("proj"))?;
        let path = vb.pp("patch_embed").prefix();
        Ok(Self { path, config: config.clone(), proj, prefix, positions })
    }

    /// For many forward passes: adds the maps of patches and of positions once, instead of at each pass. Outputs keep
    /// their bits. The sum is a constant: later changes of the variables do not reach it.
    ///
    /// # Errors
    /// If memory is full.
    pub fn for_inference(self) -> Result<Self> {
        let Positions::PatchLinear(position) = &self.positions else { return Ok(self) };
        let PatchLinear { weight, bias } = self.proj.plus(position)?;
        let proj = PatchLinear { weight: weight.detach(), bias: bias.detach() };
        Ok(Self { proj, positions: Positions::None, ..self })
    }

    /// Prepends class token and registers to `patches` (batch, patches, dim): (batch, tokens, dim).
    fn prepend(&self, patches: Tensor) -> Result<Tensor> {
        if self.prefix.is_empty() {
            return Ok(patches);
        }
        let batch = patches.dim(0)?;
        let each_sample = |tokens: &Tensor| {
            let (_one, count, dim) = tokens.dims3()?;
            // Not `broadcast_as`, whose gradient cannot be summed in pieces of the batch.
            let zeros = Tensor::zeros((batch, count, dim), tokens.dtype(), tokens.device())?;
            vit_ops::add_each(&zeros, tokens)
        };
        let mut parts = self.prefix.iter().map(each_sample).collect::<Result<Vec<_>>>()?;
        parts.push(patches);
        Tensor::cat(&parts, 1)
    }
}

impl Module for PatchEmbedding {
    /// # Shapes
    /// `images` (batch, channels, height, width) -> (batch, tokens, dim)
    ///
    /// # Errors
    /// If the images have another shape.
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let image = self.config.image;
        let expected = [image.channels, image.height, image.width];
        if images.rank() != 4 || images.dims()[1..] != expected {
            bail!(
                "{}: expected images of shape (batch, {}, {}, {}), got {:?}",
                self.path,
                image.channels,
                image.height,
                image.width,
                images.dims()
            );
        }
        let (dtype, got) = (self.proj.bias.dtype(), images.dtype());
        if got != dtype {
            let path = &self.path;
            bail!("{path}: expected images of the parameters' dtype, {dtype:?}, got {got:?}");
        }
        let patches = patchify(images, self.config.patch)?; // (batch, patches, pixels)
        match &self.positions {
            Positions::None => self.prepend(self.proj.forward(&patches)?),
            Positions::PatchLinear(position) => {
                self.prepend(self.proj.plus(position)?.forward(&patches)?)
            }
            Positions::OfPatches(table) => {
                self.prepend(vit_ops::add_each(&self.proj.forward(&patches)?, table)?)
            }
            Positions::OfTokens(table) => {
                vit_ops::add_each(&self.prepend(self.proj.forward(&patches)?)?, table)
            }
        } // (batch, tokens, dim)
    }
}

/// A linear map of a flattened patch, its weight shaped as a convolution's.
#[derive(Clone, Debug)]
struct PatchLinear {
    /// (dim, pixels)
    weight: Tensor,
    bias: Tensor,
}

impl PatchLinear {
    fn new(config: &PatchConfig, vb: &VarBuilder) -> Result<Self> {
        let PatchSize { height, width } = config.patch;
        let bound = (config.pixels() as f64).powf(-0.5);
        let init = Init::Uniform { lo: -bound, up: bound };
        let shape = (config.dim, config.image.channels, height, width);
        let weight = vb.get_with_hints(shape, "weight", init)?;
        Ok(Self {
            weight: weight.reshape((config.dim, config.pixels()))?,
            bias: vb.get_with_hints(config.dim, "bias", init)?,
        })
    }

    /// The sum of two maps as one map.
    fn plus(&self, other: &Self) -> Result<Self> {
        Ok(Self {
            weight: vit_ops::add(&self.weight, &other.weight)?,
            bias: vit_ops::add(&self.bias, &other.bias)?,
        })
    }

    fn forward(&self, patches: &Tensor) -> Result<Tensor> {
        vit_ops::linear(patches, &self.weight, Some(&self.bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageSize;
    use crate::testing::{assert_gradient, largest_difference, normal};
    use candle_core::{DType, Device};
    use std::collections::HashMap;
    use vit_layers::Parameters;

    /// Non-square images of two channels, in 6 non-square patches.
    fn config(position: Position, position_rows: PositionRows, registers: usize) -> PatchConfig {
        let image = ImageSize { height: 4, width: 9, channels: 2 };
        let patch = PatchSize { height: 2, width: 3 };
        PatchConfig { position, position_rows, registers, ..PatchConfig::new(image, patch, 8) }
    }

    fn images() -> Result<Tensor> {
        normal((2, 2, 4, 9))
    }

    fn parameters(
        config: &PatchConfig,
        class_token: ClassToken,
    ) -> Result<HashMap<String, Tensor>> {
        let parameters = Parameters::seeded(1);
        PatchEmbedding::new(config, class_token, &parameters.builder(DType::F64, &Device::Cpu))?;
        let tensors = parameters.sorted().into_iter();
        Ok(tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect())
    }

    fn embed(
        config: &PatchConfig,
        class_token: ClassToken,
        parameters: HashMap<String, Tensor>,
        images: &Tensor,
    ) -> Result<Tensor> {
        let vb = VarBuilder::from_tensors(parameters, DType::F64, &Device::Cpu);
        PatchEmbedding::new(config, class_token, &vb)?.forward(images)
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for (position, rows, registers, class_token, count) in [
            (Position::Learned, PositionRows::Tokens, 0, ClassToken::Absent, 3),
            (Position::Learned, PositionRows::Tokens, 2, ClassToken::Prepended, 5),
            (Position::Learned, PositionRows::Patches, 2, ClassToken::Prepended, 5),
            (Position::Sincos2d, PositionRows::Tokens, 1, ClassToken::Absent, 3),
            (Position::PatchLinear, PositionRows::Tokens, 0, ClassToken::Prepended, 5),
            (Position::None, PositionRows::Tokens, 0, ClassToken::Absent, 2),
        ] {
            let config = config(position, rows, registers);
            let parameters = parameters(&config, class_token)?;
            assert_eq!(parameters.len(), count, "{config:?}");
            for (name, tensor) in &parameters {
                assert_gradient(name, tensor, |moved| {
                    let mut parameters = parameters.clone();
                    parameters.insert(name.clone(), moved.clone());
                    embed(&config, class_token, parameters, &images()?)
                })?;
            }
            assert_gradient("images", &images()?, |images| {
                embed(&config, class_token, parameters.clone(), images)
            })?;
        }
        Ok(())
    }

    #[test]
    fn a_sum_for_inference_changes_no_bit() -> Result<()> {
        let config = config(Position::PatchLinear, PositionRows::Tokens, 0);
        let parameters = Parameters::seeded(1);
        let vb = parameters.builder(DType::F32, &Device::Cpu);
        let embedding = PatchEmbedding::new(&config, ClassToken::Absent, &vb)?;
        let images = images()?.to_dtype(DType::F32)?;
        let want = embedding.forward(&images)?.to_vec3::<f32>()?;
        let got = embedding.for_inference()?.forward(&images)?;
        assert!(got.to_vec3::<f32>()? == want && !got.track_op());
        Ok(())
    }

    #[test]
    fn tokens_are_class_token_registers_patches() -> Result<()> {
        for rows in [PositionRows::Tokens, PositionRows::Patches] {
            let config = config(Position::Learned, rows, 3);
            let parameters = parameters(&config, ClassToken::Prepended)?;
            let table = parameters["pos_embed"].clone();
            let tokens =
                embed(&config, ClassToken::Prepended, parameters.clone(), &images()?)?.get(1)?;
            assert_eq!(tokens.dims(), [1 + 3 + 6, 8]);
            let mut prefix =
                Tensor::cat(&[&parameters["cls_token"], &parameters["reg_token"]], 1)?.get(0)?;
            if rows == PositionRows::Tokens {
                prefix = (prefix + table.get(0)?.narrow(0, 0, 4)?)?;
            }
            assert_eq!(largest_difference(&tokens.narrow(0, 0, 4)?, &prefix)?, 0.0);
            let alone = PatchConfig { position: Position::None, registers: 0, ..config };
            let patches = embed(&alone, ClassToken::Absent, parameters, &images()?)?.get(1)?;
            let places = table.get(0)?.narrow(0, table.dim(1)? - 6, 6)?;
            let want = (patches + places)?;
            assert!(largest_difference(&tokens.narrow(0, 4, 6)?, &want)? < 1e-15);
        }
        Ok(())
    }

    #[test]
    fn sincos_positions_are_added_to_patches_only() -> Result<()> {
        let config = config(Position::Sincos2d, PositionRows::Tokens, 2);
        let parameters = parameters(&config, ClassToken::Absent)?;
        let registers = parameters["reg_token"].get(0)?;
        let tokens = embed(&config, ClassToken::Absent, parameters, &images()?)?.get(0)?;
        assert_eq!(largest_difference(&tokens.narrow(0, 0, 2)?, &registers)?, 0.0);
        Ok(())
    }

    #[test]
    fn empty_batch_gives_no_tokens() -> Result<()> {
        let config = config(Position::Learned, PositionRows::Tokens, 1);
        let parameters = parameters(&config, ClassToken::Prepended)?;
        let none = Tensor::zeros((0, 2, 4, 9), DType::F64, &Device::Cpu)?;
        let tokens = embed(&config, ClassToken::Prepended, parameters, &none)?;
        assert_eq!(tokens.dims(), [0, 8, 8]);
        Ok(())
    }

    #[test]
    fn images_of_another_size_or_dtype_are_named() -> Result<()> {
        let config = config(Position::Learned, PositionRows::Tokens, 0);
        let parameters = parameters(&config, ClassToken::Absent)?;
        for (shape, got) in [
            (vec![1, 2, 4, 6], "[1, 2, 4, 6]"),
            (vec![1, 1, 4, 9], "[1, 1, 4, 9]"),
            (vec![2, 4, 9], "[2, 4, 9]"),
        ] {
            let images = Tensor::zeros(shape, DType::F64, &Device::Cpu)?;
            let error = embed(&config, ClassToken::Absent, parameters.clone(), &images);
            let error = error.unwrap_err().to_string();
            let want = "patch_embed: expected images of shape (batch, 2, 4, 9), got ";
            assert!(error.contains(&format!("{want}{got}")), "{error}");
        }
        let bytes = Tensor::zeros((1, 2, 4, 9), DType::U8, &Device::Cpu)?;
        let error = embed(&config, ClassToken::Absent, parameters, &bytes);
        let error = error.unwrap_err().to_string();
        let want = "patch_embed: expected images of the parameters' dtype, ";
        assert!(error.contains(want) && error.contains("got U8"), "{error}");
        Ok(())
    }

    #[test]
    fn missing_or_misshapen_parameter_is_named() -> Result<()> {
        let config = config(Position::Learned, PositionRows::Tokens, 2);
        let parameters = parameters(&config, ClassToken::Prepended)?;
        let refused = |parameters| {
            let tokens = embed(&config, ClassToken::Prepended, parameters, &images()?);
            Ok::<_, candle_core::Error>(tokens.unwrap_err().to_string())
        };
        let mut missing = parameters.clone();
        missing.remove("reg_token");
        let error = refused(missing)?;
        assert!(error.contains("reg_token"), "{error}");
        let mut other = parameters;
        other.insert("pos_embed".to_owned(), normal((1, 6, 8))?);
        let error = refused(other)?;
        for part in ["pos_embed", "[1, 9, 8]", "[1, 6, 8]"] {
            assert!(error.contains(part), "{error}");
        }
        Ok(())
    }
}
