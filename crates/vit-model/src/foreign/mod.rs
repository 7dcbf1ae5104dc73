//! Models of other libraries: what their files say of themselves, as our configuration.
//!
//! Shapes tell most of it. What they do not tell (how many heads, which epsilon, how pixels are scaled) stands in the
//! JSON beside the tensors, where there is any; else the caller says it, or it is assumed, and what was assumed is told.

mod beside;
mod hf;
mod normalization;
mod notebook;
mod preprocessor;
mod shapes;
mod timm;
mod timm_config;

pub use hf::{hf_config_json, hf_config_json_of_grey};
pub use normalization::Normalization;
pub use preprocessor::hf_preprocessor_json;
pub use timm_config::timm_config_json;

use candle_core::DType;

use vit_layers::Activation;

use crate::grey::colour_as_grey;
use crate::{Error, Layout, ModelFile, ModelInfo, Pool, TensorInfos, Tensors, VitConfig};

/// A model of another library, described in our words.
///
/// ```no_run
/// use vit_model::{Documents, Foreign, Known, ModelFile};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = ModelFile::open("folder/model.safetensors".as_ref())?;
/// let config = std::fs::read_to_string("folder/config.json")?;
/// let documents = Documents { config: Some(&config), preprocessor: None };
/// let foreign = Foreign::new(file.infos(), documents, &Known::default())?;
/// println!("{} heads; assumed: {:?}", foreign.config.heads, foreign.assumed);
/// let parameters = foreign.import(&file)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// Whose names its parameters go by.
    pub layout: Layout,
    /// Its configuration; rates of training that it does not tell are zero.
    pub config: VitConfig,
    /// How its pixels are scaled.
    pub normalization: Normalization,
    /// The names of its classes and its transform, for pixels that the import has scaled as ours are.
    pub info: ModelInfo,
    /// What nothing told, as `field = value`.
    pub assumed: Vec<String>,
    /// Whether its files hold a grey model of ours in three channels, of which the import makes one again.
    pub grey: bool,
}

/// The text of the JSON files beside the tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Documents<'a> {
    /// `config.json`, of transformers or of timm.
    pub config: Option<&'a str>,
    /// `preprocessor_config.json`, of transformers.
    pub preprocessor: Option<&'a str>,
}

/// What the caller says of a model. It goes before what its files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Attention heads.
    pub heads: Option<usize>,
    /// The height and width of images: a grid of as many patches as there are positions is taken for the one that
    /// they were learned on. Without it, and without JSON, that is a square.
    pub image: Option<(usize, usize)>,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: Option<f64>,
    /// How pixels are scaled.
    pub normalization: Option<Normalization>,
    /// Which token the head reads, of a model of timm's: with a class token that one, else the mean of all patches.
    pub pool: Option<Pool>,
    /// The function of the feed-forwards.
    pub activation: Option<Activation>,
}

impl Foreign {
    /// Describes a model by its tensors' names and shapes, and by what else is known.
    ///
    /// # Errors
    /// If the names are of no known layout, the model computes what ours does not, something cannot be told, or the
    /// tensors are not those of the configuration.
    pub fn new(
        infos: &TensorInfos,
        documents: Documents<'_>,
        known: &Known,
    ) -> Result<Self, Error> {
        let foreign = Self::described(infos, documents, known)?;
        let channels = foreign.config.image.channels;
        if !foreign.normalization.fits(channels) {
            let Normalization { mean, std } = &foreign.normalization;
            return Err(Error::Unsupported {
                layout: foreign.layout,
                field: "mean and std".to_owned(),
                value: format!("{mean:?} and {std:?}"),
                expected: "a finite number for each channel, no std of 0",
            });
        }
        foreign.layout.check(infos, &foreign.config)?;
        let info = beside::info(foreign.layout, documents, &foreign.config);
        let mut config = foreign.config;
        if foreign.grey {
            config.image.channels = 1;
        }
        Ok(Self { info, config, ..foreign })
    }

    fn described(
        infos: &TensorInfos,
        documents: Documents<'_>,
        known: &Known,
    ) -> Result<Self, Error> {
        if let Some(json) = documents.config
            && hf::is_hf(json)?
        {
            return hf::described(infos, json, documents.preprocessor, known);
        }
        match Layout::recognise(infos.keys())? {
            Layout::Hf => hf::by_shapes(infos, documents.preprocessor, known),
            Layout::Timm => timm::described(infos, documents.config, known),
            Layout::Notebook => notebook::described(infos, known),
        }
    }

    /// The parameters under their native names, in `f32`, for pixels scaled as ours are.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn import(&self, file: &ModelFile) -> Result<Tensors, Error> {
        let mut of_file = self.config.clone();
        if self.grey {
            of_file.image.channels = 3;
        }
        let mut native = self.layout.import_file(file, &of_file)?;
        for tensor in native.values_mut() {
            *tensor = tensor.to_dtype(DType::F32)?;
        }
        if !self.normalization.is_ours() {
            self.normalization.fold(&mut native)?;
        }
        if self.grey {
            colour_as_grey(&mut native)?;
        }
        Ok(native)
    }
}

/// Takes down what is assumed.
#[derive(Debug, Default)]
struct Assumptions(Vec<String>);

impl Assumptions {
    /// The epsilon of layer norms, which is one in nearly all models of a library.
    fn layer_norm_eps(&mut self, known: Option<f64>, of_library: f64) -> f64 {
        known.unwrap_or_else(|| {
            self.0.push(format!("layer_norm_eps = {of_library:e}"));
            of_library
        })
    }

    /// Which token the head reads.
    fn pool(&mut self, known: Option<Pool>, likely: Pool) -> Pool {
        known.unwrap_or_else(|| {
            self.0.push(format!("pool = {}", if likely == Pool::Cls { "cls" } else { "mean" }));
            likely
        })
    }

    /// The function of the feed-forwards, which is one in nearly all models.
    fn activation(&mut self, known: Option<Activation>) -> Activation {
        known.unwrap_or_else(|| {
            self.0.push("activation = gelu".to_owned());
            Activation::Gelu
        })
    }

    /// The heads of a model whose heads have this width together.
    fn heads(&mut self, width: usize, known: Option<usize>) -> Result<usize, Error> {
        /// ViT-SO400M, ViT-H, ViT-g and ViT-G have 16, and every other that is published has heads of 64.
        const SIXTEEN: [usize; 4] = [1152, 1280, 1408, 1664];
        let heads = match known {
            Some(heads) => return Ok(heads),
            None if SIXTEEN.contains(&width) => 16,
            None if width.is_multiple_of(64) => width / 64,
            None => {
                let reason = format!("heads of 64 do not make up a width of {width}");
                return Err(Error::Untold { field: "heads", reason });
            }
        };
        self.0.push(format!("heads = {heads}"));
        Ok(heads)
    }

    /// How pixels are scaled.
    fn normalization(&mut self, known: Option<Normalization>) -> Normalization {
        known.unwrap_or_else(|| {
            self.0.push("pixels = (x - 0.5) / 0.5".to_owned());
            Normalization::ours()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Preset, TensorInfo};

    /// An empty tensor takes no bytes, whatever its other sizes are, so that a file can say them.
    #[test]
    fn shapes_out_of_reach_are_an_error() {
        let shallow = Preset::Shallow.config();
        let cls = VitConfig { pool: Pool::Cls, registers: 0, ..shallow.clone() };
        let modern = VitConfig { registers: 2, qk_norm: true, ..cls.clone() };
        let cases = [
            (Layout::Timm, modern),
            (Layout::Hf, cls),
            (Layout::Notebook, shallow),
            (Layout::Notebook, Preset::Notebook.config()),
        ];
        for (layout, config) in cases {
            let parameters = layout.parameters(&config).expect("an expressible model");
            let info = |shape| TensorInfo { shape, dtype: Some(DType::F32) };
            let infos: TensorInfos =
                parameters.into_iter().map(|(name, shape)| (name, info(shape))).collect();
            let known = |image| Known { heads: Some(config.heads), image, ..Known::default() };
            assert!(Foreign::new(&infos, Documents::default(), &known(None)).is_ok(), "{layout}");
            for name in infos.keys() {
                for size in [0, 1 << 40, usize::MAX] {
                    let mut hostile = infos.clone();
                    let shape = vec![size; infos[name].shape.len()];
                    hostile.insert(name.clone(), info(shape));
                    for image in [None, Some((0, 0)), Some((usize::MAX, usize::MAX))] {
                        let described = Foreign::new(&hostile, Documents::default(), &known(image));
                        assert!(described.is_err(), "{layout}: {name} of {size}");
                    }
                }
            }
        }
    }
}
