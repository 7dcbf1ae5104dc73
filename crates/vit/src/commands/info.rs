//! `vit info`: describes a model.

use std::path::{Path, PathBuf};

use serde_json::json;
use vit_files::open_file;
use vit_model::{Known, Summary, VitConfig};
use vit_onnx::Description;

use crate::any_model::AnyModel;
use crate::args::path;
use crate::columns;
use crate::failure::{Exit, Failure, Result};
use crate::foreign_flags::ForeignFlags;
use crate::output::{self, thousands};
use crate::terminal::stdout;

/// Shows a model's configuration, and the parameters and multiply-adds of each part
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run directory, a safetensors file of any layout, an ONNX graph from `vit export`, or a folder saved by timm or
    /// transformers
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) foreign_flags: ForeignFlags,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) {
        let graph = graph(&args.model, &args.foreign_flags.known())?;
        let Description { input, opset, ir_version, producer, .. } = &graph;
        let by =
            if producer.is_empty() { String::new() } else { format!(", written by {producer}") };
        let layout = format!("ONNX, opset {opset}, IR version {ir_version}, {input} input{by}");
        let beside = json!({
            "input": input.to_string(),
            "opset": opset,
            "ir_version": ir_version,
            "producer": producer,
        });
        return show(
            args,
            (&args.model, &layout),
            &graph.config,
            json!({"layout": "onnx", "onnx": beside}),
        );
    }
    let model = AnyModel::open(&args.model, &args.foreign_flags.known())?;
    model.log_assumptions();
    let config = args.foreign_flags.at_asked_size(&model.config);
    let layout = format!("{} layout", model.layout);
    show(args, (model.file.path(), &layout), &config, json!({"layout": model.layout.to_string()}))
}

/// Describes an ONNX graph exported by vit.
fn graph(path: &Path, known: &Known) -> Result<Description> {
    let about = |failure: Failure| failure.about(path.display());
    if *known != Known::default() {
        let failure = Failure::new(Exit::Usage, "an ONNX graph has its own configuration");
        return Err(about(failure.hint("leave out the flags that describe foreign files")));
    }
    let read = |error| Failure::new(Exit::File, format!("cannot read {}: {error}", path.display()));
    let file = open_file(path).map_err(read)?;
    vit_onnx::describe(file).map_err(|error| about(error.into()))
}

fn show(
    args: &Args,
    (path, layout): (&Path, &str),
    config: &VitConfig,
    layout_json: serde_json::Value,
) -> Result<()> {
    let summary = Summary::of(config)?;
    if args.json {
        return output::json(&as_json(layout_json, config, &summary));
    }
    output::line(format!("{} ({layout})", path.display()))?;
    output::line("")?;
    let row = |name: &str, parameters: usize, multiply_adds: u64| {
        vec![name.to_owned(), thousands(parameters as u64), thousands(multiply_adds)]
    };
    let mut rows = vec![["part", "parameters", "multiply-adds"].map(str::to_owned).to_vec()];
    rows.extend(
        summary.parts.iter().map(|part| row(&part.name, part.parameters, part.multiply_adds)),
    );
    rows.push(row("total", summary.parameters(), summary.multiply_adds()));
    columns::table(&rows, stdout::width()).iter().try_for_each(output::line)?;
    output::line("")?;
    output::lines(&toml::to_string(config).expect("a configuration is plain data"))
}

fn as_json(
    mut value: serde_json::Value,
    config: &VitConfig,
    summary: &Summary,
) -> serde_json::Value {
    let parts = summary.parts.iter().map(|part| {
        json!({
            "name": part.name,
            "parameters": part.parameters,
            "multiply_adds": part.multiply_adds,
        })
    });
    value["parameters"] = json!(summary.parameters());
    value["multiply_adds"] = json!(summary.multiply_adds());
    value["parts"] = json!(parts.collect::<Vec<_>>());
    value["config"] = json!(config);
    value
}
