//! `vit bench latency`: times single forward passes.

use std::num::NonZero;
use std::time::Instant;

use serde_json::json;
use vit_layers::Mode;
use vit_model::Summary;

use super::images::Images;
use super::model::{Model, ModelArgs};
use super::times::{Times, microseconds};
use crate::failure::Result;
use crate::output;
use crate::threads::threads;

/// One warm-up pass for this many timed passes.
const WARM_UP: u32 = 10;

/// Times forward passes of a loaded model, as in `vit serve`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Batch size, at least 1
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// Threads for large operations, 1 to 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Number of timed passes, at least 1; a tenth as many run first
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iterations: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let threads = NonZero::new(threads(args.threads)).unwrap_or(NonZero::<usize>::MIN);
    assert!(vit_ops::set_threads(threads), "no operation has run yet");
    let model = Model::open(&args.model)?;
    let batch_size = args.batch_size;
    let images = Images::noise(batch_size as usize, &model.config)?;
    let indices: Vec<u32> = (0..batch_size).collect();
    let images = images.batch(&indices)?.inputs;
    tracing::info!("timing {} passes of {}", args.iterations, model.name);
    let forward = || {
        let begun = Instant::now();
        model.layers.forward(&images, Mode::Eval)?;
        Ok(begun.elapsed())
    };
    for _ in 0..args.iterations.div_ceil(WARM_UP) {
        forward()?;
    }
    let times = Times::new((0..args.iterations).map(|_| forward()).collect::<Result<_>>()?);
    let [median, p10, p90] = [times.median(), times.p10(), times.p90()].map(microseconds);
    if args.json {
        return output::json(&json!({
            "workload": "latency",
            "model": model.name,
            "parameters": Summary::of(&model.config)?.parameters(),
            "batch_size": batch_size,
            "threads": threads,
            "iterations": args.iterations,
            "median_us": median,
            "p10_us": p10,
            "p90_us": p90,
        }));
    }
    output::line(format!("a pass    {median:.1} us, p10 {p10:.1}, p90 {p90:.1}"))?;
    output::line(format!("threads   {threads}"))
}
