//! `vit bench`: times training, evaluation and forward passes, one file each.

mod communication;
mod eval;
mod images;
mod latency;
mod model;
mod times;
mod train;

use clap::Subcommand;

use crate::failure::Result;

/// Times training, evaluation or single forward passes
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Train(train::Args),
    Eval(eval::Args),
    Latency(latency::Args),
}

pub(super) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Train(args) => train::run(args),
        Bench::Eval(args) => eval::run(args),
        Bench::Latency(args) => latency::run(args),
    }
}
