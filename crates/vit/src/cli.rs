//! The command line: logging options and a command.

pub(crate) mod usage;

use clap::{CommandFactory, Parser};

use crate::commands::{Command, train};
use crate::logging::Logging;

/// Trains, explains and exports Vision Transformers
#[derive(Debug, Parser)]
#[command(name = "vit", bin_name = "vit", version, max_term_width = 80, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 internal error, 2 usage or configuration, 3 data, \
4 model file or disk, 5 training diverged, 6 device, 130 interrupted.";

/// The command line as a clap command.
pub(crate) fn program() -> clap::Command {
    Cli::command().mut_subcommand("train", train::without_settings_beside_resume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        program().debug_assert();
    }
}
