//! `vit man`: man pages of all commands.

use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;

use crate::args::path;
use crate::failure::{Exit, Failure, Result};
use crate::output;
use crate::outputs::{Force, Inputs, OutputFolder};

/// Writes man pages, one for each command
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder to write to, such as ~/.local/share/man/man1
    #[arg(short, long, value_name = "DIR", value_parser = path())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) force: Force,
}

pub(super) fn run(args: &Args, program: Command) -> Result<()> {
    let mut command = program.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages);
    let names: Vec<String> = pages.iter().map(Man::get_filename).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let folder = OutputFolder::new(&args.output, &names, &Inputs::of([]), args.force.existing())?;
    let pages = pages.iter().map(|page| {
        let mut text = Vec::new();
        page.render(&mut text).map(|()| text)
    });
    let pages = pages.collect::<std::io::Result<Vec<_>>>();
    let pages = pages.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    folder.write(&pages.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    output::line(args.output.display())
}

/// A page for the command and each of its subcommands.
fn collect(command: &Command, pages: &mut Vec<Man>) {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        collect(command, pages);
    }
    pages.push(Man::new(command.clone()));
}
