//! Images to tokens (ViT, arXiv 2010.11929, eq. 1).

use candle_core::{Module, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use crate::position::sincos2d;
use crate::{PatchConfig, PatchSize, Position, patchify};

/// Standard deviation of a new position table and class token, as in the ViT paper's code.
const TABLE_DEVIATION: f64 = 0.02;

/// Whether a learned class token stands before the patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassToken {
    /// Token 0 is learned; the patches follow.
    Prepended,
    /// The patches alone.
    Absent,
}

impl ClassToken {
    /// Tokens that are not patches.
    #[must_use]
    pub const fn tokens(self) -> usize {
        match self {
            Self::Prepended => 1,
            Self::Absent => 0,
        }
    }
}

/// `tokens = [class; W patch + b] + positions`.
///
/// PyTorch equivalent: `timm.layers.PatchEmbed` with the class token and positions of timm's `VisionTransformer`.
///
/// # Parameters
/// `patch_embed.proj.weight` (dim, channels, patch height, patch width), `patch_embed.proj.bias` (dim),
/// `cls_token` (1, 1, dim) if there is one, and for the positions `pos_embed` (1, tokens, dim) if learned, or
/// `pos_embed.proj.{weight,bias}` as the patch embedding's if `patch_linear`
#[derive(Clone, Debug)]
pub struct PatchEmbedding {
    config: PatchConfig,
    proj: PatchLinear,
    class_token: Option<Tensor>,
    positions: Positions,
}

#[derive(Clone, Debug)]
enum Positions {
    None,
    /// (1, tokens, dim)
    Table(Tensor),
    PatchLinear(PatchLinear),
}

impl PatchEmbedding {
    /// An embedding of this configuration, its parameters from `vb`.
    ///
    /// # Errors
    /// If the configuration is wrong, or `vb` has no such parameters or other shapes.
    pub fn new(config: &PatchConfig, class_token: ClassToken, vb: &VarBuilder) -> Result<Self> {
        config.check().map_err(candle_core::Error::wrap)?;
        let dim = config.dim;
        let tokens = class_token.tokens() + config.patches();
        let table = Init::Randn { mean: 0.0, stdev: TABLE_DEVIATION };
        let positions = match config.position {
            Position::None => Positions::None,
            Position::Learned => {
                Positions::Table(vb.get_with_hints((1, tokens, dim), "pos_embed", table)?)
            }
            Position::Sincos2d => {
                let patches = sincos2d(config.grid(), dim, vb.dtype(), vb.device())?;
                // A class token has no place: its row is zero.
                let rows = patches.pad_with_zeros(0, class_token.tokens(), 0)?;
                Positions::Table(rows.unsqueeze(0)?)
            }
            Position::PatchLinear => {
                Positions::PatchLinear(PatchLinear::new(config, &vb.pp("pos_embed").pp("proj"))?)
            }
        };
        let class_token = match class_token {
            ClassToken::Prepended => Some(vb.get_with_hints((1, 1, dim), "cls_token", table)?),
            ClassToken::Absent => None,
        };
        let proj = PatchLinear::new(config, &vb.pp("patch_embed").pp("proj"))?;
        Ok(Self { config: config.clone(), proj, class_token, positions })
    }
}

impl Module for PatchEmbedding {
    /// # Shapes
    /// `images` (batch, channels, height, width) -> (batch, tokens, dim)
    ///
    /// # Errors
    /// If the images have another shape.
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = images.dims4()?;
        let image = self.config.image;
        if (channels, height, width) != (image.channels, image.height, image.width) {
            bail!(
                "patch embedding: expected images of shape (batch, {}, {}, {}), got {:?}",
                image.channels,
                image.height,
                image.width,
                images.dims()
            );
        }
        let patches = patchify(images, self.config.patch)?; // (batch, patches, pixels)
        let mut xs = match &self.positions {
            Positions::PatchLinear(position) => self.proj.plus(position)?.forward(&patches)?,
            Positions::None | Positions::Table(_) => self.proj.forward(&patches)?,
        }; // (batch, patches, dim)
        if let Some(token) = &self.class_token {
            let token = token.broadcast_as((batch, 1, self.config.dim))?;
            xs = Tensor::cat(&[&token, &xs], 1)?; // (batch, tokens, dim)
        }
        match &self.positions {
            Positions::Table(table) => vit_ops::add_each(&xs, table),
            Positions::None | Positions::PatchLinear(_) => Ok(xs),
        }
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

    /// The sum of two maps, which is one map.
    fn plus(&self, other: &Self) -> Result<Self> {
        Ok(Self { weight: (&self.weight + &other.weight)?, bias: (&self.bias + &other.bias)? })
    }

    fn forward(&self, patches: &Tensor) -> Result<Tensor> {
        vit_ops::linear(patches, &self.weight, Some(&self.bias))
    }
}
