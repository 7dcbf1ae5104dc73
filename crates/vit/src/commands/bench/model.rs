//! The model to benchmark.

use std::path::PathBuf;

use candle_core::{DType, Device};
use vit_layers::Parameters;
use vit_model::{VisionTransformer, VitConfig};

use crate::args::path;
use crate::failure::Result;
use crate::saved_model::SavedModel;
use crate::settings::{Settings, SettingsArgs};

/// A model on disk, or a new one.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// A run directory, or a safetensors file from vit [default: a new model]
    #[arg(conflicts_with_all = ["preset", "config"], value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// A model for inference, and its name in results.
pub(super) struct Model {
    pub(super) name: String,
    pub(super) config: VitConfig,
    pub(super) layers: VisionTransformer,
}

impl Model {
    /// Opens the model on disk, else makes a new one from the settings.
    ///
    /// # Errors
    /// If it cannot be read, or the settings are invalid.
    pub(super) fn open(args: &ModelArgs) -> Result<Self> {
        if let Some(path) = &args.model {
            let saved = SavedModel::open(path)?;
            let layers = saved.build_to_serve()?;
            return Ok(Self { name: path.display().to_string(), config: saved.config, layers });
        }
        let settings = Settings::begin(&args.settings)?;
        let vb = Parameters::seeded(settings.train.seed).detached_builder(DType::F32, &Device::Cpu);
        let layers = VisionTransformer::new(&settings.model, &vb)?;
        Ok(Self { name: name(&args.settings, &settings), config: settings.model, layers })
    }
}

/// The configuration file if there is one, because it may differ a lot from its preset; else the preset.
pub(super) fn name(args: &SettingsArgs, settings: &Settings) -> String {
    let file = args.config.as_ref().map(|path| path.display().to_string());
    file.unwrap_or_else(|| settings.preset.clone())
}
