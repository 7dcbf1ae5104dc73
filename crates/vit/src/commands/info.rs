//! `vit info`: what a model is made of.

use std::path::PathBuf;

use serde_json::json;
use vit_model::{Layout, Summary, VitConfig};

use crate::any_model::AnyModel;
use crate::args::path;
use crate::columns;
use crate::failure::Result;
use crate::output::{self, thousands};
use crate::terminal::stdout;
use crate::untold::Untold;

/// Shows a model: its configuration, the parameters and the multiply-adds of each part
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run folder, a safetensors file of any layout, or a folder that timm or transformers saved
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) untold: Untold,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let model = AnyModel::open(&args.model, &args.untold.known())?;
    let config = args.untold.at_asked_size(&model.config);
    let summary = Summary::of(&config)?;
    if args.json {
        return output::json(&as_json(model.layout, &config, &summary));
    }
    output::line(format!("{} ({} layout)", model.file.path().display(), model.layout))?;
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
    output::lines(&toml::to_string(&config).expect("a configuration is plain data"))
}

fn as_json(layout: Layout, config: &VitConfig, summary: &Summary) -> serde_json::Value {
    let parts = summary.parts.iter().map(|part| {
        json!({
            "name": part.name,
            "parameters": part.parameters,
            "multiply_adds": part.multiply_adds,
        })
    });
    json!({
        "layout": layout.to_string(),
        "parameters": summary.parameters(),
        "multiply_adds": summary.multiply_adds(),
        "parts": parts.collect::<Vec<_>>(),
        "config": config,
    })
}
