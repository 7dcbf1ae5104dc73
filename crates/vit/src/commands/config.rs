//! `vit config`: prints the settings of a run, completed from a dataset on disk.

use super::train;
use crate::failure::Result;
use crate::output;

pub(super) fn run(args: &train::Args) -> Result<()> {
    let (settings, asked) = args.resolve()?;
    let settings = train::with_dataset(settings, asked)?;
    if args.json {
        return output::json(&settings);
    }
    output::lines(&settings.to_visible_toml())
}
