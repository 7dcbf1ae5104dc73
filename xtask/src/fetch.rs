//! `cargo xtask fetch`: downloads a dataset in advance.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};
use vit_fetch::{DATASETS, Event, Options, Outcome, Source, data_root, user_mirrors};

/// Downloads a dataset if it is missing, and verifies it
#[derive(Args)]
pub(crate) struct Fetch {
    /// The dataset
    #[arg(default_value = "mnist", value_parser = PossibleValuesParser::new(DATASETS.map(|source| source.name)))]
    dataset: String,
    /// Folder with a subfolder for each dataset [default: VIT_DATA, else the cache folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// URL of a folder with the dataset's .gz files, tried first [default: VIT_MIRROR]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

impl Fetch {
    pub(crate) fn run(self) -> Result<()> {
        let source = Source::named(&self.dataset).context("no such dataset")?;
        let folder = source.folder(&data_root(self.data_dir)?);
        let options =
            Options { mirrors: user_mirrors(self.mirror.as_deref())?, ..Options::default() };
        let bar = progress_bar();
        let outcome = vit_fetch::fetch(source, &folder, &options, &mut |event| show(&bar, event))?;
        let how = match outcome {
            Outcome::AlreadyThere => "was already there",
            Outcome::Downloaded { .. } => "is downloaded",
        };
        println!("{} {how}, verified: {}", source.name, folder.display());
        Ok(())
    }
}

/// A progress bar on stderr, if that is a terminal.
fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    ProgressBar::no_length().with_style(style.expect("the template is well-formed"))
}

fn show(bar: &ProgressBar, event: Event<'_>) {
    let line = match event {
        Event::Downloading { file, received, total, .. } => {
            bar.set_message(file);
            bar.set_position(received);
            match total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
            return;
        }
        Event::Waiting { folder } => {
            format!("another process is downloading into {}", folder.display())
        }
        Event::MirrorFailed(attempt) => format!("warning: {attempt}"),
        Event::Installed { file } => format!("{file} is verified"),
        _ => return,
    };
    bar.suspend(|| eprintln!("{line}"));
}
