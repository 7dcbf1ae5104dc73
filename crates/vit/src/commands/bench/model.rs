//! The model that is measured in evaluation.

use std::path::PathBuf;

use candle_core::{DType, Device};
use vit_layers::Parameters;
use vit_model::{VisionTransformer, VitConfig};

use crate::args::path;
use crate::failure::Result;
use crate::saved_model::SavedModel;
use crate::settings::{Settings, SettingsArgs};

/// Which model: one on disk, or a new one.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// A run folder, or a safetensors file that carries its configuration [default: a new model]
    #[arg(conflicts_with_all = ["preset", "config"], value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// A model without gradients, and what results call it.
pub(super) struct Model {
    pub(super) name: String,
    pub(super) config: VitConfig,
    pub(super) layers: VisionTransformer,
}

impl Model {
    /// The model on disk, else a new one of the settings.
    ///
    /// # Errors
    /// If it cannot be read, or the settings are wrong.
    pub(super) fn open(args: &ModelArgs) -> Result<Self> {
        if let Some(path) = &args.model {
            let saved = SavedModel::open(path)?;
            let layers = saved.build(&Device::Cpu)?;
            return Ok(Self { name: path.display().to_string(), config: saved.config, layers });
        }
        let settings = Settings::begin(&args.settings)?;
        let vb = Parameters::seeded(settings.train.seed).detached_builder(DType::F32, &Device::Cpu);
        let layers = VisionTransformer::new(&settings.model, &vb)?;
        Ok(Self { name: name(&args.settings, &settings), config: settings.model, layers })
    }
}

/// The configuration file, which may be far from the preset that it began as; else the preset.
pub(super) fn name(args: &SettingsArgs, settings: &Settings) -> String {
    let file = args.config.as_ref().map(|path| path.display().to_string());
    file.unwrap_or_else(|| settings.preset.clone())
}
