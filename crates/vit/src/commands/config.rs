//! `vit config`: the settings that a run would have.

use crate::cli;
use crate::failure::Result;
use crate::output;
use crate::settings::Settings;

pub(super) fn run(args: &cli::Train) -> Result<()> {
    let settings = Settings::resolve(args)?;
    if args.json {
        return Ok(output::json(&settings)?);
    }
    Ok(output::lines(&settings.to_visible_toml())?)
}
