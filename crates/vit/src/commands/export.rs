//! `vit export`: a model under the names of another library.

use std::path::PathBuf;

use vit_model::{Layout, hf_config_json, hf_preprocessor_json, to_bytes_with, to_hf_bytes};

use crate::args::path;
use crate::failure::Result;
use crate::foreign_folder::{CONFIG, PREPROCESSOR, WEIGHTS};
use crate::output;
use crate::outputs::{Force, Inputs, Output, OutputFolder};
use crate::saved_model::{SavedFile, SavedModel};

/// The files that transformers looks for.
const HF_FILES: [&str; 3] = [WEIGHTS, CONFIG, PREPROCESSOR];

/// Where the model goes.
enum Destination {
    File(Output),
    HfFolder(OutputFolder),
}

/// Writes a model's parameters under the names of another library
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run folder, or a safetensors file that carries its configuration
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Whose names: timm's, Hugging Face transformers' or the seed's notebook's
    #[arg(long)]
    pub(crate) layout: LayoutName,
    /// The safetensors file to write; for hf, the folder
    #[arg(short, long, value_name = "PATH", value_parser = path())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) force: Force,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum LayoutName {
    Timm,
    Hf,
    Notebook,
}

impl From<LayoutName> for Layout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::Timm => Self::Timm,
            LayoutName::Hf => Self::Hf,
            LayoutName::Notebook => Self::Notebook,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let layout = Layout::from(args.layout);
    let (inputs, existing) = (Inputs::of([args.model.as_path()]), args.force.existing());
    let destination = match layout {
        Layout::Hf => {
            Destination::HfFolder(OutputFolder::new(&args.output, &HF_FILES, &inputs, existing)?)
        }
        Layout::Timm | Layout::Notebook => {
            Destination::File(Output::new(&args.output, &inputs, existing)?)
        }
    };
    // Before the parameters are read.
    layout.check_expressible(&SavedFile::open(&args.model)?.config)?;
    let model = SavedModel::open(&args.model)?;
    let (tensors, config) = (layout.export(&model.parameters, &model.config)?, &model.config);
    match destination {
        Destination::File(mut output) => {
            output.write(&to_bytes_with(&tensors, config, &model.info)?)?;
        }
        Destination::HfFolder(folder) => folder.write(&[
            &to_hf_bytes(&tensors)?,
            hf_config_json(config, &model.info).as_bytes(),
            hf_preprocessor_json(config, model.info.transform.as_ref()).as_bytes(),
        ])?,
    }
    tracing::info!("{} tensors in the {layout} layout", tensors.len());
    output::line(args.output.display())
}
