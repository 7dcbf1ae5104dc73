//! `vit export`: a model under the names of another library.

use std::path::Path;

use vit_files::write_atomically;
use vit_model::{Layout, Tensors, VitConfig, hf_config_json, hf_preprocessor_json};

use crate::cli;
use crate::failure::Result;
use crate::output;
use crate::saved_model::{SavedFile, SavedModel};

pub(super) fn run(args: &cli::Export) -> Result<()> {
    let layout = Layout::from(args.layout);
    // Before the parameters are read.
    layout.check_expressible(&SavedFile::open(&args.model)?.config)?;
    let model = SavedModel::open(&args.model)?;
    let tensors = layout.export(&model.parameters, &model.config)?;
    match layout {
        Layout::Hf => write_hf_folder(&args.output, &tensors, &model.config)?,
        Layout::Timm | Layout::Notebook => {
            vit_model::write(&args.output, &tensors, &model.config)?;
        }
    }
    tracing::info!("{} tensors in the {layout} layout", tensors.len());
    Ok(output::line(args.output.display())?)
}

/// The three files that transformers looks for.
fn write_hf_folder(folder: &Path, tensors: &Tensors, config: &VitConfig) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(vit_files::Error::io("create", folder))?;
    vit_model::write_hf(&folder.join("model.safetensors"), tensors)?;
    let write = |name: &str, text: String| write_atomically(&folder.join(name), text.as_bytes());
    write("config.json", hf_config_json(config))?;
    Ok(write("preprocessor_config.json", hf_preprocessor_json(config))?)
}
