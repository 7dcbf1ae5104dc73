//! `vit fetch`: downloads a dataset in advance.

use vit_fetch::{DATASETS, Source};

use crate::dataset::DataPlace;
use crate::failure::{Exit, Failure, Result};
use crate::{dataset, output};

/// Downloads a dataset if it is missing, and verifies it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// mnist, fashion-mnist, cifar10 or cifar100
    pub(crate) dataset: String,
    #[command(flatten)]
    pub(crate) place: DataPlace,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let Some(source) = Source::named(&args.dataset) else {
        let message = format!("unknown dataset {:?}", args.dataset);
        let names = DATASETS.map(|source| source.name).join(", ");
        return Err(Failure::new(Exit::Data, message).hint(format!("expected one of {names}")));
    };
    let folder = dataset::fetch(source, &args.place)?;
    tracing::info!("{} is present and verified", source.name);
    output::line(folder.display())
}
