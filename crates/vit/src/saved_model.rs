//! Opens a MODEL argument: a run directory, or a safetensors file with its configuration.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vit_layers::Mode;
use vit_model::{Layout, ModelFile, ModelInfo, Output, Tensors, VisionTransformer, VitConfig};

use vit_run::{CHECKPOINTS, MODEL};

use crate::failure::{Exit, Failure, Result};
use crate::foreign_folder::is_foreign_folder;
use crate::settings::Settings;
use crate::terminal::quoted;

/// A model file with its header read and checked.
pub(crate) struct SavedFile {
    pub(crate) file: ModelFile,
    pub(crate) layout: Layout,
    pub(crate) config: VitConfig,
    /// The run's settings, if the path is a run directory.
    pub(crate) run: Option<Settings>,
}

/// A model read from disk.
pub(crate) struct SavedModel {
    pub(crate) config: VitConfig,
    /// Class names and transform.
    pub(crate) info: ModelInfo,
    /// By native name.
    pub(crate) parameters: Tensors,
    /// The run's settings, if the path is a run directory.
    pub(crate) run: Option<Settings>,
}

impl SavedFile {
    /// Opens a model file, and checks its tensors against its configuration.
    ///
    /// # Errors
    /// If there is no model, it is another library's, or it does not match its configuration.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let import = format!("`vit import {} -o OUT.safetensors`", quoted(path));
        // A file with our configuration is ours, whatever is beside it.
        if is_foreign_folder(path) {
            let weights = path.join(MODEL);
            if weights.exists() && ModelFile::open(&weights)?.config().is_some() {
                return Self::open(&weights);
            }
            let message = format!("{} is a folder of another library", path.display());
            return Err(
                Failure::new(Exit::File, message).hint(format!("import it first: {import}"))
            );
        }
        let is_run = path.is_dir();
        let run = if is_run { Some(Settings::of_run(path)?) } else { None };
        let path = if is_run { path.join(MODEL) } else { path.to_owned() };
        let unfinished = is_run && !path.exists() && path.with_file_name(CHECKPOINTS).exists();
        let file = ModelFile::open(&path).map_err(|error| {
            let failure = Failure::from(error);
            let run = path.parent().unwrap_or(&path);
            let hint = format!(
                "the run has not ended: pass {}, or continue with `vit train --resume {}`",
                run.join("checkpoints/last").display(),
                quoted(run)
            );
            if unfinished { failure.hint(hint) } else { failure }
        })?;
        let Some(config) = file.config().cloned() else {
            let message = format!("{} has no configuration", path.display());
            return Err(Failure::new(Exit::File, message).hint(format!(
                "pass a run directory, or import another library's file first: {import}"
            )));
        };
        let about = |error| at_fault(&file, error);
        let layout = Layout::recognise(file.infos().keys()).map_err(about)?;
        layout.check(file.infos(), &config).map_err(about)?;
        Ok(Self { file, layout, config, run })
    }
}

/// An error of the file, never of the command line.
fn at_fault(file: &ModelFile, error: vit_model::Error) -> Failure {
    Failure::from(error).exit(Exit::File).about(file.path().display())
}

impl SavedModel {
    /// Reads a model.
    ///
    /// # Errors
    /// Same as [`SavedFile::open`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let SavedFile { file, layout, config, run } = SavedFile::open(path)?;
        let parameters =
            layout.import_file(&file, &config).map_err(|error| at_fault(&file, error))?;
        let info = file.info().clone();
        Ok(Self { config, info, parameters, run })
    }

    /// Builds the model for inference.
    ///
    /// # Errors
    /// If the device's memory is full.
    pub(crate) fn build(&self, device: &Device) -> Result<VisionTransformer> {
        let parameters = self.parameters.clone().into_iter().collect();
        let vb = VarBuilder::from_tensors(parameters, DType::F32, device);
        Ok(VisionTransformer::new(&self.config, &vb)?)
    }

    /// The same for many passes of one image on the CPU, with the same outputs.
    ///
    /// # Errors
    /// If memory is full.
    pub(crate) fn build_to_serve(&self) -> Result<VisionTransformer> {
        let model = self.build(&Device::Cpu)?;
        let is_small = (2..128).contains(&self.config.tokens());
        Ok(if is_small { model.for_inference()? } else { model })
    }
}

/// Class probabilities.
///
/// # Shapes
/// `images` (batch, channels, height, width) -> batch rows of `classes` numbers
///
/// # Errors
/// If the images do not suit the model.
pub(crate) fn probabilities(
    model: &VisionTransformer,
    output: Output,
    images: &Tensor,
) -> Result<Vec<Vec<f32>>> {
    let outputs = model.forward(images, Mode::Eval)?;
    let probabilities = match output {
        Output::Softmax => outputs,
        Output::Logits => vit_ops::softmax(&outputs)?,
    };
    Ok(probabilities.to_vec2()?)
}
