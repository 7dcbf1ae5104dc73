//! `vit man`: the help of every command as a man page.

use std::fs;

use clap::CommandFactory;

use crate::cli::{self, Cli};
use crate::failure::{Exit, Failure, Result};
use crate::output;

pub(super) fn run(args: &cli::Man) -> Result<()> {
    let folder = &args.output;
    let written =
        fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|error| {
        let message = format!("cannot write man pages into {}: {error}", folder.display());
        Failure::new(Exit::File, message)
    })?;
    Ok(output::line(folder.display())?)
}
