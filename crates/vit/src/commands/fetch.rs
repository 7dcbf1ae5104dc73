//! `vit fetch`: a dataset, before it is needed.

use vit_fetch::{DATASETS, Source};

use crate::cli;
use crate::failure::{Exit, Failure, Result};
use crate::{dataset, output};

pub(super) fn run(args: &cli::Fetch) -> Result<()> {
    let Some(source) = Source::named(&args.dataset) else {
        let message = format!("no dataset is called {:?}", args.dataset);
        let names = DATASETS.map(|source| source.name).join(", ");
        return Err(Failure::new(Exit::Data, message).hint(format!("expected one of {names}")));
    };
    let folder = dataset::fetch(source, &args.place)?;
    tracing::info!("{} is there and verified", source.name);
    Ok(output::line(folder.display())?)
}
