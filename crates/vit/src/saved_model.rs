//! Opening what a user names as MODEL: a run folder, or a safetensors file that carries its configuration.

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

/// A model's file, whose header has been read and checked.
pub(crate) struct SavedFile {
    pub(crate) file: ModelFile,
    pub(crate) layout: Layout,
    pub(crate) config: VitConfig,
    /// The run it is of, where it is named by the run's folder.
    pub(crate) run: Option<Settings>,
}

/// A model on disk, read and checked.
pub(crate) struct SavedModel {
    pub(crate) config: VitConfig,
    /// Class names and transform.
    pub(crate) info: ModelInfo,
    /// Under their native names.
    pub(crate) parameters: Tensors,
    /// The run it is of, where it is named by the run's folder.
    pub(crate) run: Option<Settings>,
}

impl SavedFile {
    /// Opens a model's file and checks its tensors against its configuration.
    ///
    /// # Errors
    /// If there is no model, or it is another library's, or it is not what its configuration says.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let import = format!("`vit import {} -o OUT.safetensors`", quoted(path));
        // A file that carries our configuration is ours, whatever lies beside it.
        if is_foreign_folder(path) {
            let weights = path.join(MODEL);
            if weights.exists() && ModelFile::open(&weights)?.config().is_some() {
                return Self::open(&weights);
            }
            let message = format!("{} is the folder of another library's model", path.display());
            return Err(
                Failure::new(Exit::File, message).hint(format!("take it over first: {import}"))
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
                "the run has not ended: name {}, or go on with `vit train --resume {}`",
                run.join("checkpoints/last").display(),
                quoted(run)
            );
            if unfinished { failure.hint(hint) } else { failure }
        })?;
        let Some(config) = file.config().cloned() else {
            let message = format!("{} carries no configuration", path.display());
            return Err(Failure::new(Exit::File, message).hint(format!(
                "name a run folder, or take another library's file over first: {import}"
            )));
        };
        let about = |error| at_fault(&file, error);
        let layout = Layout::recognise(file.infos().keys()).map_err(about)?;
        layout.check(file.infos(), &config).map_err(about)?;
        Ok(Self { file, layout, config, run })
    }
}

/// Whatever is wrong with a file, it is the file's fault and not the command line's.
fn at_fault(file: &ModelFile, error: vit_model::Error) -> Failure {
    Failure::from(error).exit(Exit::File).about(file.path().display())
}

impl SavedModel {
    /// Reads a model.
    ///
    /// # Errors
    /// As [`SavedFile::open`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let SavedFile { file, layout, config, run } = SavedFile::open(path)?;
        let parameters =
            layout.import_file(&file, &config).map_err(|error| at_fault(&file, error))?;
        let info = file.info().clone();
        Ok(Self { config, info, parameters, run })
    }

    /// The model, for evaluation.
    ///
    /// # Errors
    /// If the device has no room.
    pub(crate) fn build(&self, device: &Device) -> Result<VisionTransformer> {
        let parameters = self.parameters.clone().into_iter().collect();
        let vb = VarBuilder::from_tensors(parameters, DType::F32, device);
        Ok(VisionTransformer::new(&self.config, &vb)?)
    }
}

/// The probabilities of the classes.
///
/// # Shapes
/// `images` (batch, channels, height, width) -> batch rows of `classes` numbers
///
/// # Errors
/// If the images are not the model's.
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
