//! Opening what a user names as MODEL: a run folder, or a safetensors file that carries its configuration.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vit_layers::Mode;
use vit_model::{Layout, Output, Tensors, VisionTransformer, VitConfig};

use crate::failure::{Exit, Failure, Result};
use crate::settings::Settings;

/// A model on disk, read and checked.
pub(crate) struct SavedModel {
    pub(crate) path: PathBuf,
    pub(crate) config: VitConfig,
    /// Under their native names.
    pub(crate) parameters: Tensors,
    /// The run it is of, where it is named by the run's folder.
    pub(crate) run: Option<Settings>,
}

impl SavedModel {
    /// Reads a model and checks its parameters against its configuration.
    ///
    /// # Errors
    /// If there is no model, or it is not what its configuration says.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let is_run = path.is_dir();
        let run = if is_run { Some(Settings::of_run(path)?) } else { None };
        let path = if is_run { path.join("model.safetensors") } else { path.to_owned() };
        let file = vit_model::read(&path)?;
        let Some(config) = file.config else {
            let message = format!("{} carries no configuration", path.display());
            return Err(Failure::new(Exit::File, message)
                .hint("name a run folder, or a file that `vit train` has written"));
        };
        // Whatever is wrong, it is the file's fault and not the command line's.
        let about =
            |error: vit_model::Error| Failure::from(error).exit(Exit::File).about(path.display());
        let layout = Layout::recognise(&file.tensors).map_err(about)?;
        let parameters = layout.import(&file.tensors, &config).map_err(about)?;
        Ok(Self { path, config, parameters, run })
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
