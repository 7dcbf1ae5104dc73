//! The command line: logging options and a command.

pub(crate) mod usage;

use std::fmt::Write;

use clap::builder::Styles;
use clap::{CommandFactory, Parser};

use crate::columns::wrapped;
use crate::commands::{Command, train};
use crate::logging::Logging;
use crate::terminal::stdout;

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

/// The commands by use, in the order of `vit help`.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Train", &["train", "config", "fetch"]),
    ("Use a model", &["predict", "explain", "serve"]),
    ("Inspect", &["eval", "info", "compare", "verify"]),
    ("Exchange models", &["export", "import"]),
    ("Other", &["bench", "completions", "man", "help"]),
];

/// The command line as a clap command.
pub(crate) fn program() -> clap::Command {
    let program = Cli::command().mut_subcommand("train", train::without_settings_beside_resume);
    let help = help_template(&program);
    program.help_template(help)
}

/// Help with [`GROUPS`] in place of clap's single list of commands.
fn help_template(program: &clap::Command) -> String {
    const NAMES: usize = 15; // columns of "  completions  "
    let styles = Styles::styled();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let width = stdout::width().unwrap_or(80).min(80);
    let mut template = "{about}\n\n{usage-heading} {usage}\n".to_owned();
    for (group, names) in GROUPS {
        write!(template, "\n{header}{group}:{header:#}\n").expect("a string takes all text");
        for name in names {
            let about = program.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map_or("Prints help for a command".to_owned(), ToString::to_string);
            let lines = wrapped(&about, 0, Some(width.saturating_sub(NAMES)))
                .join(&format!("\n{:NAMES$}", ""));
            writeln!(template, "  {literal}{name:<13}{literal:#}{lines}")
                .expect("a string takes all text");
        }
    }
    template + &format!("\n{header}Options:{header:#}\n{{options}}{{after-help}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        program().debug_assert();
    }

    #[test]
    fn each_command_is_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let program = program();
        let mut names: Vec<&str> =
            program.get_subcommands().map(clap::Command::get_name).chain(["help"]).collect();
        grouped.sort_unstable();
        names.sort_unstable();
        assert_eq!(grouped, names);
    }
}
