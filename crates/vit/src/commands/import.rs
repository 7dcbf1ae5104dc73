//! `vit import`: converts another library's model.

use std::path::PathBuf;

use vit_model::{Layout, Normalization, VitConfig, resize, to_bytes_with};

use crate::any_model::{self, AnyModel};
use crate::args::path;
use crate::failure::{Exit, Failure, Result};
use crate::foreign_flags::ForeignFlags;
use crate::output;
use crate::outputs::{Force, Inputs, Output};

const SCALING: &str = "\
It uses the JSON files in the folder. Any other pixel normalisation than to [-1, 1] is \
folded exactly into the patch embedding.";

/// Converts another library's model to a file that every command accepts
#[derive(Debug, clap::Args)]
#[command(after_help = SCALING)]
pub(crate) struct Args {
    /// A safetensors file, or a folder saved by timm or Hugging Face transformers
    #[arg(value_parser = path())]
    pub(crate) path: PathBuf,
    /// Safetensors file to write
    #[arg(short, long, value_name = "PATH", value_parser = path())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) force: Force,
    /// Expect this layout; by default it is recognised by the parameter names
    #[arg(long)]
    pub(crate) layout: Option<LayoutName>,
    #[command(flatten)]
    pub(crate) foreign_flags: ForeignFlags,
}

/// A parameter layout.
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
    let inputs = any_model::files_of(&args.path);
    let inputs = Inputs::of(inputs.iter().map(PathBuf::as_path));
    let mut output = Output::new(&args.output, &inputs, args.force.existing())?;
    let model = AnyModel::open(&args.path, &args.foreign_flags.known())?;
    model.log_assumptions();
    if let Some(asked) = args.layout.map(Layout::from).filter(|&asked| asked != model.layout) {
        let path = args.path.display();
        let message = format!("{path}: expected the {asked} layout, got {}", model.layout);
        return Err(Failure::new(Exit::Usage, message).hint("leave out --layout"));
    }
    let mut parameters = model.parameters()?;
    let config = args.foreign_flags.at_asked_size(&model.config);
    if config != model.config {
        let (resampling, how) = args.foreign_flags.resampling(model.layout);
        parameters = resize(&parameters, &model.config, &config, resampling)?;
        let [from, to] = [&model.config, &config].map(grid);
        tracing::info!("positions of {from} patches resampled for {to} ({how})");
    }
    let folded = model.foreign.as_ref().map(|foreign| &foreign.normalization);
    if let Some(Normalization { mean, std }) = folded.filter(|scaling| !scaling.is_ours()) {
        tracing::info!(
            "normalisation by mean {mean:?} and std {std:?} is folded into patch_embed.proj"
        );
    }
    output.write(&to_bytes_with(&parameters, &config, &model.info())?)?;
    tracing::info!("{} tensors from the {} layout", parameters.len(), model.layout);
    output::line(args.output.display())
}

/// Size of the grid of patches.
fn grid(config: &VitConfig) -> String {
    let (rows, columns) = config.patch_config().grid();
    format!("{rows}x{columns}")
}
