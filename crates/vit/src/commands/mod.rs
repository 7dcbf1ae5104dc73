//! The commands, one file each.

mod bench;
mod compare;
mod completions;
mod config;
mod eval;
mod explain;
mod export;
mod fetch;
mod import;
mod info;
mod man;
pub(crate) mod predict;
pub(crate) mod serve;
pub(crate) mod train;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Result;

/// A command with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(Box<train::Args>),
    #[command(about = CONFIG, after_help = CONFIGURED)]
    Config(Box<train::Args>),
    Fetch(fetch::Args),
    Predict(predict::Args),
    Explain(explain::Args),
    Serve(serve::Args),
    Eval(eval::Args),
    Info(info::Args),
    Compare(compare::Args),
    Verify(verify::Args),
    Export(export::Args),
    Import(import::Args),
    #[command(subcommand)]
    Bench(bench::Bench),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Whether it runs on several ranks.
    pub(crate) const fn is_for_ranks(&self) -> bool {
        matches!(self, Self::Train(_) | Self::Bench(bench::Bench::Train(_)))
    }
}

const CONFIG: &str = "Prints the settings that `vit train` would use with the same flags";

const CONFIGURED: &str = "\
The output is a configuration file for `vit train --config`. It leaves out flags that do not affect the result, such as --threads and --run-dir.";

/// Runs a command of a program with this command line.
///
/// # Errors
/// The command's error.
pub(crate) fn run(command: Command, program: clap::Command) -> Result<ExitCode> {
    match command {
        Command::Train(args) => return train::run(&args),
        Command::Config(args) => config::run(&args)?,
        Command::Eval(args) => eval::run(&args)?,
        Command::Predict(args) => predict::run(&args)?,
        Command::Explain(args) => explain::run(&args)?,
        Command::Serve(args) => serve::run(&args)?,
        Command::Info(args) => info::run(&args)?,
        Command::Compare(args) => compare::run(&args)?,
        Command::Verify(args) => return verify::run(&args),
        Command::Export(args) => export::run(&args)?,
        Command::Import(args) => import::run(&args)?,
        Command::Fetch(args) => fetch::run(&args)?,
        Command::Bench(args) => bench::run(&args)?,
        Command::Completions(args) => completions::run(&args, program)?,
        Command::Man(args) => man::run(&args, program)?,
    }
    Ok(ExitCode::SUCCESS)
}
