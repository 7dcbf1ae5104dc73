//! The command line of `vit bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::path::path;
use super::{DataArgs, SettingsArgs};

const NOISE: &str = "\
Without --dataset, images of noise in the model's size are taken.";

/// Times training, evaluation or single forward passes
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Train(Train),
    Eval(Eval),
    Latency(Latency),
}

/// Times the steps that `vit train` takes; leaves nothing behind
#[derive(Debug, Args)]
#[command(after_help = NOISE)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Images in a step [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Steps to time
    #[arg(long, value_name = "N", default_value = "300", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,
    /// Steps before them that are not timed
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) warmup: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Times what `vit eval` does once model and images are loaded
#[derive(Debug, Args)]
#[command(after_help = NOISE)]
pub(crate) struct Eval {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Images of noise
    #[arg(long, value_name = "N", default_value = "1000", conflicts_with = "dataset", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) images: u32,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Evaluations to time; one more goes before
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Times a forward pass of a loaded model, as `vit predict` makes it
#[derive(Debug, Args)]
pub(crate) struct Latency {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Images in a pass
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// Threads that large operations are split over [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Passes to time; a tenth as many go before
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iterations: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which model: one on disk, or a new one.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A run folder, or a safetensors file that carries its configuration [default: a new model]
    #[arg(conflicts_with_all = ["preset", "config"], value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}
