//! `vit export`: converts a model for another library, or to an ONNX graph.

mod card;

use std::path::{Path, PathBuf};

use vit_model::{
    Layout, ModelInfo, Tensors, VitConfig, grey_as_colour, hf_config_json, hf_config_json_of_grey,
    hf_preprocessor_json, timm_config_json, to_bytes_with, to_hf_bytes,
};
use vit_onnx::Input;

use crate::args::path;
use crate::failure::{Exit, Failure, Result};
use crate::foreign_folder::{CARD, CONFIG, PREPROCESSOR, WEIGHTS};
use crate::output;
use crate::outputs::{Force, Inputs, Output, OutputFolder};
use crate::saved_model::{SavedFile, SavedModel};

/// Files of a folder for transformers.
const HF_FILES: [&str; 4] = [WEIGHTS, CONFIG, PREPROCESSOR, CARD];
/// Files of a folder for timm.
const TIMM_FILES: [&str; 3] = [WEIGHTS, CONFIG, CARD];

/// Exports a model for another library, or as an ONNX graph
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run directory, a checkpoint, or a safetensors file from vit
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Format: parameters under the names of timm, Hugging Face transformers or the notebook, or an ONNX graph
    #[arg(long)]
    pub(crate) layout: LayoutName,
    /// File to write; a folder for hf, and for timm if PATH is a folder or ends in /
    #[arg(short, long, value_name = "PATH", value_parser = path())]
    pub(crate) output: PathBuf,
    /// Input of an ONNX graph: normalised floats, or pixel bytes that the graph normalises [default: float]
    #[arg(long, value_name = "KIND")]
    pub(crate) input: Option<InputName>,
    #[command(flatten)]
    pub(crate) force: Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LayoutName {
    Timm,
    Hf,
    Notebook,
    Onnx,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum InputName {
    Float,
    Bytes,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.input.is_some() && args.layout != LayoutName::Onnx {
        let message = "--input needs --layout onnx";
        return Err(Failure::new(Exit::Usage, message).hint("leave out --input"));
    }
    match args.layout {
        LayoutName::Timm if is_folder(&args.output) => timm_folder(args)?,
        LayoutName::Timm => parameters(args, Layout::Timm)?,
        LayoutName::Notebook => parameters(args, Layout::Notebook)?,
        LayoutName::Hf => hf_folder(args)?,
        LayoutName::Onnx => graph(args)?,
    }
    output::line(args.output.display())
}

fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn inputs(args: &Args) -> Inputs {
    Inputs::of([args.model.as_path()])
}

fn file(args: &Args) -> Result<Output> {
    Output::new(&args.output, &inputs(args), args.force.existing())
}

fn folder(args: &Args, files: &[&str]) -> Result<OutputFolder> {
    OutputFolder::new(&args.output, files, &inputs(args), args.force.existing())
}

/// Opens the model, and checks before reading parameters that it can be exported.
fn open(args: &Args, check: impl Fn(&VitConfig, &ModelInfo) -> Result<()>) -> Result<SavedModel> {
    let saved = SavedFile::open(&args.model)?;
    check(&saved.config, saved.file.info())?;
    drop(saved);
    SavedModel::open(&args.model)
}

/// Writes a parameter file.
fn parameters(args: &Args, layout: Layout) -> Result<()> {
    let mut output = file(args)?;
    let model = open(args, |config, _| Ok(layout.check_expressible(config)?))?;
    let tensors = layout.export(&model.parameters, &model.config)?;
    output.write(&to_bytes_with(&tensors, &model.config, &model.info)?)?;
    log_count(&tensors, layout);
    Ok(())
}

/// Writes a folder for timm's `local-dir:`.
fn timm_folder(args: &Args) -> Result<()> {
    let folder = folder(args, &TIMM_FILES)?;
    let model = open(args, |config, info| Ok(timm_config_json(config, info).map(drop)?))?;
    let tensors = Layout::Timm.export(&model.parameters, &model.config)?;
    folder.write(&[
        &to_bytes_with(&tensors, &model.config, &model.info)?,
        timm_config_json(&model.config, &model.info)?.as_bytes(),
        card::of(&model, &args.model, &args.output, Layout::Timm)?.as_bytes(),
    ])?;
    log_count(&tensors, Layout::Timm);
    Ok(())
}

/// Writes a folder for transformers, which reads all pictures in colour.
fn hf_folder(args: &Args) -> Result<()> {
    let folder = folder(args, &HF_FILES)?;
    let model = open(args, |config, _| Ok(Layout::Hf.check_expressible(config)?))?;
    let is_grey = model.config.image.channels == 1;
    let (native, config, config_json): (_, _, fn(&VitConfig, &ModelInfo) -> String) = if is_grey {
        let (native, config) = grey_as_colour(&model.parameters, &model.config)?;
        (native, config, hf_config_json_of_grey)
    } else {
        (model.parameters.clone(), model.config.clone(), hf_config_json)
    };
    let tensors = Layout::Hf.export(&native, &config)?;
    folder.write(&[
        &to_hf_bytes(&tensors)?,
        config_json(&config, &model.info).as_bytes(),
        hf_preprocessor_json(&config, model.info.transform.as_ref()).as_bytes(),
        card::of(&model, &args.model, &args.output, Layout::Hf)?.as_bytes(),
    ])?;
    if is_grey {
        tracing::info!(
            "converted a grey model to three channels: weights times 0.299, 0.587 and 0.114"
        );
    }
    log_count(&tensors, Layout::Hf);
    Ok(())
}

fn log_count(tensors: &Tensors, layout: Layout) {
    tracing::info!("{} tensors in the {layout} layout", tensors.len());
}

/// Writes an ONNX graph.
fn graph(args: &Args) -> Result<()> {
    let mut output = file(args)?;
    let model = open(args, |config, _| Ok(vit_onnx::check(config)?))?;
    let input = match args.input {
        None | Some(InputName::Float) => Input::Float,
        Some(InputName::Bytes) => Input::Bytes,
    };
    let bytes = vit_onnx::to_bytes(&model.parameters, &model.config, &model.info, input)?;
    drop(model);
    output.write(&bytes)?;
    tracing::info!("an ONNX graph of {} bytes that takes {input}", bytes.len());
    Ok(())
}
