//! `vit completions`: shell completions.

use crate::failure::Result;
use crate::output;

/// Prints a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETED)]
pub(crate) struct Args {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

const COMPLETED: &str = "\
For bash: vit completions bash > ~/.local/share/bash-completion/completions/vit";

pub(super) fn run(args: &Args, mut program: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "vit", &mut script);
    let script = String::from_utf8(script).expect("scripts are text");
    output::lines(&script)
}
