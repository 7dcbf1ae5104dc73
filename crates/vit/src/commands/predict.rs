//! `vit predict`: classifies pictures.

mod csv;

use std::path::{Path, PathBuf};

use vit_data::Split;
use vit_train::EVALUATION_BATCH;

use crate::args::path;
use crate::columns::{Columns, width};
use crate::dataset::{DataArgs, Wanted};
use crate::device::Device;
use crate::failure::{Exit, Failure, Result};
use crate::output::percent;
use crate::pictures::{self, NamedPicture, Preparation, expand};
use crate::prediction::{Prediction, Ranked, Subject};
use crate::saved_model::{SavedModel, probabilities};
use crate::terminal::stdout;
use crate::{dataset, output};

/// Classifies pictures or a dataset's images; prints a table in a terminal, else JSON lines
#[derive(Debug, clap::Args)]
#[command(
    after_help = pictures::HELP,
    group = clap::ArgGroup::new("inverted").arg("invert").conflicts_with("dataset"),
    group = clap::ArgGroup::new("fitted").arg("fit").conflicts_with("dataset"),
)]
pub(crate) struct Args {
    /// A run directory, a checkpoint, or a safetensors file from vit
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Pictures (PNG, JPEG, WebP, GIF or BMP), folders of them, or - for one or more on stdin
    #[arg(value_name = "IMAGE", required_unless_present = "dataset", conflicts_with = "dataset", value_parser = path())]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) pictures: pictures::Args,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Split of the dataset
    #[arg(long, requires = "dataset", default_value = "test")]
    pub(crate) split: SplitName,
    /// Also print the K most probable classes, 1 to 65535, highest first [default: none]
    #[arg(long, value_name = "K", conflicts_with = "csv", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) top_k: Option<u16>,
    /// Print JSON also in a terminal
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// Print CSV: a heading, then a row for each image with the probability of every class
    #[arg(long)]
    pub(crate) csv: bool,
    /// Device: cpu, cuda or cuda:N; auto is a usable GPU, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum SplitName {
    Train,
    Test,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let saved = SavedModel::open(&args.model)?;
    let model = saved.build(&device)?;
    let mut printer = Printer { form: Form::of(args), columns: None, names: names(&saved) };
    if !args.images.is_empty() {
        let preparation = Preparation::new(&args.pictures, &saved)?;
        let paths: Vec<Result<PathBuf>> =
            args.images.iter().flat_map(|path| expanded(path)).collect();
        let longest = paths.iter().flatten().map(|path| width(&path.display().to_string())).max();
        return each_picture(paths, |NamedPicture { name, bytes }| {
            let seen = preparation.see(bytes, name, &device)?;
            for row in probabilities(&model, saved.config.output, &seen.image)? {
                let image = Some(name.clone());
                let subject = Subject::Picture { image, inverted: seen.inverted };
                let prediction = Prediction::of(subject, row, args.top_k, &saved.info)?;
                printer.print(&prediction, longest.unwrap_or(0))?;
            }
            Ok(())
        });
    }
    let Some(name) = &args.data.dataset else { return Ok(()) };
    let found = dataset::named(name, &args.data.place, &mut Wanted::by_saved(&saved))?;
    let split = match args.split {
        SplitName::Train => Split::Train,
        SplitName::Test => Split::Test,
    };
    let examples = found.dataset.split(split);
    let indices: Vec<u32> = (0..examples.len() as u32).collect();
    let longest = examples.len().to_string().len();
    for batch in indices.chunks(EVALUATION_BATCH) {
        let (images, _labels) = examples.batch(batch, &device, candle_core::DType::F32)?;
        let rows = probabilities(&model, saved.config.output, &images)?;
        for (row, &index) in rows.into_iter().zip(batch) {
            let index = index as usize;
            let subject = Subject::Example { index, label: examples.label(index) };
            printer.print(&Prediction::of(subject, row, args.top_k, &saved.info)?, longest)?;
        }
    }
    Ok(())
}

fn names(saved: &SavedModel) -> Vec<String> {
    saved.info.all_names(saved.config.classes)
}

/// The pictures that an argument names, or the error.
fn expanded(path: &Path) -> Vec<Result<PathBuf>> {
    match expand(path) {
        Ok(paths) => paths.into_iter().map(Ok).collect(),
        Err(failure) => vec![Err(failure)],
    }
}

/// Predicts all readable pictures. Errors are reported as they occur, and again at the end.
fn each_picture(
    paths: Vec<Result<PathBuf>>,
    mut predict: impl FnMut(&NamedPicture) -> Result<()>,
) -> Result<()> {
    let are_several = paths.len() > 1;
    let (mut count, mut unread) = (0, 0);
    for path in paths {
        let pictures: Vec<Result<NamedPicture>> = match path.and_then(|path| pictures::read(&path))
        {
            Ok(pictures) => pictures.into_iter().map(Ok).collect(),
            Err(failure) => vec![Err(failure)],
        };
        let are_several = are_several || pictures.len() > 1;
        for picture in pictures {
            count += 1;
            match picture.and_then(|picture| predict(&picture)) {
                Err(failure) if failure.is(Exit::Data) && are_several => {
                    failure.log();
                    unread += 1;
                }
                told => told?,
            }
        }
    }
    if unread > 0 {
        let message = format!("{unread} of {count} pictures could not be read");
        return Err(Failure::new(Exit::Data, message));
    }
    Ok(())
}

/// Output format of predictions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Json,
    Csv,
}

impl Form {
    fn of(args: &Args) -> Self {
        match (args.csv, args.json || !stdout::is_terminal()) {
            (true, _) => Self::Csv,
            (false, true) => Self::Json,
            (false, false) => Self::Table,
        }
    }
}

/// Prints predictions one by one.
struct Printer {
    form: Form,
    /// The table's columns, once its headings are printed.
    columns: Option<Columns>,
    /// Names of the classes.
    names: Vec<String>,
}

impl Printer {
    /// `longest` is the width of the longest image name, as far as known.
    fn print(&mut self, prediction: &Prediction, longest: usize) -> Result<()> {
        let is_first = self.columns.is_none();
        match self.form {
            Form::Json => output::json(prediction),
            Form::Csv => {
                if is_first {
                    self.columns = Some(Columns::fitted(Vec::new(), None));
                    output::line(csv::row(&csv::headings(prediction, &self.names)))?;
                }
                output::line(csv::row(&csv::cells(prediction, &self.names)))
            }
            Form::Table => {
                let (headings, cells) = (Self::headings(prediction), self.cells(prediction));
                let columns = self.columns.get_or_insert_with(|| {
                    let class = self.names.iter().map(|name| width(name)).max().unwrap_or(0);
                    let least = |at: usize, heading: &&str| match (at, *heading) {
                        (0, heading) => longest.max(heading.len()),
                        (_, heading @ ("class" | "label")) => class.max(heading.len()),
                        (_, heading) => heading.len(),
                    };
                    let widths = headings.iter().enumerate().map(|(at, of)| least(at, of));
                    Columns::fitted(widths.collect(), stdout::width())
                });
                if is_first {
                    output::line(columns.line(&headings))?;
                }
                output::line(columns.line(&cells))
            }
        }
    }

    fn headings(prediction: &Prediction) -> Vec<&'static str> {
        let (first, second) = match prediction.subject {
            Subject::Picture { .. } => ("picture", None),
            Subject::Example { .. } => ("index", Some("label")),
        };
        let top = prediction.top.as_ref().map_or(1, Vec::len);
        let classes = std::iter::repeat_n(["class", "probability"], top).flatten();
        [first, "class", "probability"].into_iter().chain(second).chain(classes.skip(2)).collect()
    }

    fn cells(&self, prediction: &Prediction) -> Vec<String> {
        let of = |ranked: &Ranked| {
            [self.names[ranked.class].clone(), percent(ranked.probability.into())]
        };
        let (first, second) = match &prediction.subject {
            Subject::Picture { image, .. } => (image.clone().unwrap_or_default(), None),
            Subject::Example { index, label } => {
                let name = self.names.get(*label as usize);
                (index.to_string(), Some(name.map_or(label.to_string(), String::clone)))
            }
        };
        let others = prediction.top.iter().flatten().skip(1).flat_map(of);
        [first].into_iter().chain(of(&prediction.best)).chain(second).chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vit_model::ModelInfo;

    fn prediction(probabilities: &[f32], top_k: Option<u16>) -> Result<Prediction> {
        let subject = Subject::Example { index: 0, label: 0 };
        Prediction::of(subject, probabilities.to_vec(), top_k, &ModelInfo::default())
    }

    #[test]
    fn a_table_has_a_cell_under_each_heading() {
        let names = ["cat", "dog", "owl"].map(str::to_owned).to_vec();
        let printer = Printer { form: Form::Table, columns: None, names };
        let prediction = prediction(&[0.25, 0.5, 0.25], Some(2)).expect("finite numbers");
        let headings = ["index", "class", "probability", "label", "class", "probability"];
        assert_eq!(Printer::headings(&prediction), headings);
        let cells = ["0", "dog", "50.00 %", "cat", "cat", "25.00 %"];
        assert_eq!(printer.cells(&prediction), cells);
    }
}
