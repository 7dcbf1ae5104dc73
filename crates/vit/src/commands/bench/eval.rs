//! `vit bench eval`: times an evaluation, without loading.

use std::time::Instant;

use candle_core::Tensor;
use serde_json::json;
use vit_data::Split;
use vit_model::Summary;

use super::images::{Images, NOISE};
use super::model::{Model, ModelArgs};
use super::times::{Times, milliseconds, rate};
use crate::dataset::DataArgs;
use crate::failure::Result;
use crate::output::{self, thousands};
use crate::threads::threads;

/// Times an evaluation, without loading model and images
#[derive(Debug, clap::Args)]
#[command(after_help = NOISE)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Number of noise images, at least 1
    #[arg(long, value_name = "N", default_value = "1000", conflicts_with = "dataset", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) images: u32,
    /// Threads, 1 to 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Number of timed evaluations, at least 1; one more runs first
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let model = Model::open(&args.model)?;
    let images = Images::load(&args.data, Split::Test, args.images as usize, &model.config)?;
    let threads = threads(args.threads);
    let name = &model.name;
    tracing::info!("timing {} evaluations of {name} on {}", args.rounds, images.name);
    let evaluate = || {
        let begun = Instant::now();
        let forward = |images: &Tensor, mode| model.layers.forward(images, mode);
        vit_train::evaluate(&forward, images.len(), threads, |indices| images.batch(indices))?;
        Ok(begun.elapsed())
    };
    evaluate()?;
    let times = Times::new((0..args.rounds).map(|_| evaluate()).collect::<Result<_>>()?);
    let images_per_second = rate(images.len(), times.median());
    let [median, p10, p90] = [times.median(), times.p10(), times.p90()].map(milliseconds);
    if args.json {
        return output::json(&json!({
            "workload": "eval",
            "model": name,
            "parameters": Summary::of(&model.config)?.parameters(),
            "images": images.name,
            "samples": images.len(),
            "threads": threads,
            "rounds": args.rounds,
            "median_ms": median,
            "p10_ms": p10,
            "p90_ms": p90,
            "images_per_second": images_per_second,
        }));
    }
    let samples = thousands(images.len() as u64);
    output::line(format!("{samples} images  {median:.1} ms, p10 {p10:.1}, p90 {p90:.1}"))?;
    output::line(format!("images/s  {}", thousands(images_per_second as u64)))?;
    output::line(format!("threads   {threads}"))
}
