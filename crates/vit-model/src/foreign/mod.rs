//! Models of other libraries, described by our configuration.
//!
//! Shapes determine most of it. The rest (number of heads, epsilon, normalisation) comes from the JSON beside the
//! tensors, else from the caller, else it is assumed and reported.

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

/// A model of another library, described by our configuration.
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
    /// The naming of its parameters.
    pub layout: Layout,
    /// Its configuration; dropout rates that its files lack are zero.
    pub config: VitConfig,
    /// Its normalisation of pixels.
    pub normalization: Normalization,
    /// Class names and transform, for inputs normalised like ours, as the import makes them.
    pub info: ModelInfo,
    /// The assumed settings, as `field = value`.
    pub assumed: Vec<String>,
    /// Whether the files hold one of our grey models converted to three channels, which the import converts back.
    pub grey: bool,
}

/// The text of the JSON files beside the tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Documents<'a> {
    /// transformers' or timm's `config.json`.
    pub config: Option<&'a str>,
    /// transformers' `preprocessor_config.json`.
    pub preprocessor: Option<&'a str>,
}

/// Settings given by the caller, which override the model's files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Attention heads.
    pub heads: Option<usize>,
    /// Height and width of the images. If their grid has as many patches as the model has positions, positions keep
    /// this grid. Without it and without JSON, the grid is a square.
    pub image: Option<(usize, usize)>,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: Option<f64>,
    /// Normalisation of pixels.
    pub normalization: Option<Normalization>,
    /// For timm models, the head's input. Default: the class token if there is one, else the mean of all patches.
    pub pool: Option<Pool>,
    /// Activation of the feed-forwards.
    pub activation: Option<Activation>,
}

impl Foreign {
    /// Describes a model by its tensors' names and shapes, the JSON files and the given settings.
    ///
    /// # Errors
    /// If the names belong to no known layout, the model computes something unsupported, a setting cannot be
    /// determined, or the tensors do not match the configuration.
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

    /// The parameters in `f32` under native names, converted to our normalisation.
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

/// Records assumed settings.
#[derive(Debug, Default)]
struct Assumptions(Vec<String>);

impl Assumptions {
    /// Epsilon of layer norms; nearly all models of a library share it.
    fn layer_norm_eps(&mut self, known: Option<f64>, of_library: f64) -> f64 {
        known.unwrap_or_else(|| {
            self.0.push(format!("layer_norm_eps = {of_library:e}"));
            of_library
        })
    }

    /// The head's input.
    fn pool(&mut self, known: Option<Pool>, likely: Pool) -> Pool {
        known.unwrap_or_else(|| {
            self.0.push(format!("pool = {}", if likely == Pool::Cls { "cls" } else { "mean" }));
            likely
        })
    }

    /// Activation of the feed-forwards; nearly all models share it.
    fn activation(&mut self, known: Option<Activation>) -> Activation {
        known.unwrap_or_else(|| {
            self.0.push("activation = gelu".to_owned());
            Activation::Gelu
        })
    }

    /// Number of heads, from the width of all heads together.
    fn heads(&mut self, width: usize, known: Option<usize>) -> Result<usize, Error> {
        /// ViT-SO400M, ViT-H, ViT-g and ViT-G have 16 heads; all other published models have heads of width 64.
        const SIXTEEN: [usize; 4] = [1152, 1280, 1408, 1664];
        let heads = match known {
            Some(heads) => return Ok(heads),
            None if SIXTEEN.contains(&width) => 16,
            None if width.is_multiple_of(64) => width / 64,
            None => {
                let reason = format!(
                    "a width of {width} is not a multiple of 64, the usual width of a head"
                );
                return Err(Error::Undetermined { field: "heads", reason });
            }
        };
        self.0.push(format!("heads = {heads}"));
        Ok(heads)
    }

    /// Normalisation of pixels.
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

    /// An empty tensor takes no bytes whatever its other dimensions, so a file can announce any.
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
