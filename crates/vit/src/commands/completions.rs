//! `vit completions`: what a shell needs to complete a command line.

use clap::CommandFactory;

use crate::cli::{self, Cli};
use crate::failure::Result;
use crate::output;

pub(super) fn run(args: &cli::Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vit", &mut script);
    let script = String::from_utf8(script).expect("scripts are text");
    Ok(output::lines(&script)?)
}
