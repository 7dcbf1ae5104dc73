//! `vit config`: the settings that a run would have.

use super::train;
use crate::failure::Result;
use crate::output;

pub(super) fn run(args: &train::Args) -> Result<()> {
    let (settings, _asked) = args.resolve()?;
    if args.json {
        return output::json(&settings);
    }
    output::lines(&settings.to_visible_toml())
}
