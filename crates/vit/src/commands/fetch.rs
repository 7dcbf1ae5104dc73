//! `vit fetch`: a dataset, before it is needed.

use vit_fetch::{DATASETS, Source};

use crate::dataset::DataPlace;
use crate::failure::{Exit, Failure, Result};
use crate::{dataset, output};

/// Downloads a dataset where it is missing, and verifies it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// mnist, fashion-mnist, cifar10 or cifar100
    pub(crate) dataset: String,
    #[command(flatten)]
    pub(crate) place: DataPlace,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let Some(source) = Source::named(&args.dataset) else {
        let message = format!("no dataset is called {:?}", args.dataset);
        let names = DATASETS.map(|source| source.name).join(", ");
        return Err(Failure::new(Exit::Data, message).hint(format!("expected one of {names}")));
    };
    let folder = dataset::fetch(source, &args.place)?;
    tracing::info!("{} is there and verified", source.name);
    output::line(folder.display())
}
