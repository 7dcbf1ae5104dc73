//! `vit eval`: accuracy, each class, and which is taken for which.

use std::path::PathBuf;

use candle_core::DType;
use serde_json::json;
use vit_data::Split;
use vit_train::{Batch, Confusion, Evaluation};

use crate::args::path;
use crate::dataset::DataArgs;
use crate::dataset::{self, Found, Wanted};
use crate::device::Device;
use crate::failure::Result;
use crate::output::{self, percent, thousands};
use crate::progress::Counter;
use crate::saved_model::SavedModel;
use crate::threads::threads_on;

/// Measures a model on a dataset's test images
#[derive(Debug, clap::Args)]
#[command(after_help = MEASURED_ON)]
pub(crate) struct Args {
    /// A run folder, or a safetensors file that carries its configuration
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Where to compute: cpu, cuda or cuda:N; auto is a GPU that this program can use, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const MEASURED_ON: &str = "\
Without --dataset, the one that the run was trained on is used; for a file, MNIST.";

pub(super) fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let saved = SavedModel::open(&args.model)?;
    let of_run = saved.run.as_ref().and_then(|run| run.dataset.as_deref());
    let name = args.data.dataset.as_deref().or(of_run).unwrap_or(vit_fetch::MNIST.name);
    let found = dataset::named(name, &args.data.place, &mut Wanted::by(&saved.config))?;
    let model = saved.build(&device)?;
    let test = found.dataset.split(Split::Test);
    let bar = Counter::new("testing", Some(test.len() as u64), thousands);
    let evaluation = vit_train::evaluate(
        &|images: &candle_core::Tensor, mode| model.forward(images, mode),
        test.len(),
        threads_on(&device, args.threads),
        |indices| {
            let (images, labels) = test.batch(indices, &device, DType::F32)?;
            bar.add(indices.len() as u64);
            Ok(Batch::new(images, labels))
        },
    );
    drop(bar);
    let evaluation = evaluation?;
    if !evaluation.loss().is_finite() {
        let loss = evaluation.loss();
        tracing::warn!("the loss is {loss}: the model's numbers are too large, or none");
    }
    let confusion = evaluation.confusion(saved.config.classes);
    if args.json {
        return output::json(&as_json(&found, &evaluation, &confusion));
    }
    print(&found, &evaluation, &confusion)
}

/// What is told of one class.
struct Class {
    samples: usize,
    correct: usize,
    recall: f64,
    precision: f64,
}

fn classes(confusion: &Confusion) -> Vec<Class> {
    let each = confusion.counts.iter().enumerate().map(|(class, row)| {
        let correct = row[class];
        let samples = row.iter().sum();
        let taken: usize = confusion.counts.iter().map(|row| row[class]).sum();
        let share = |of: usize| correct as f64 / of as f64;
        Class { samples, correct, recall: share(samples), precision: share(taken) }
    });
    each.collect()
}

fn as_json(found: &Found, evaluation: &Evaluation, confusion: &Confusion) -> serde_json::Value {
    let classes = classes(confusion).into_iter().enumerate().map(|(class, told)| {
        json!({
            "class": class,
            "samples": told.samples,
            "correct": told.correct,
            "recall": told.recall,
            "precision": told.precision,
        })
    });
    json!({
        "accuracy": evaluation.accuracy(),
        "correct": evaluation.correct(),
        "samples": evaluation.total(),
        "loss": evaluation.loss(),
        "dataset": found.dataset.name(),
        "split": "test",
        "classes": classes.collect::<Vec<_>>(),
        "confusion": confusion.counts,
    })
}

fn print(found: &Found, evaluation: &Evaluation, confusion: &Confusion) -> Result<()> {
    output::line(format!("dataset   {found}, test images"))?;
    output::line(format!(
        "accuracy  {} ({} of {})",
        percent(evaluation.accuracy()),
        thousands(evaluation.correct() as u64),
        thousands(evaluation.total() as u64)
    ))?;
    output::line(format!("loss      {:.4}", evaluation.loss()))?;
    output::line("")?;
    output::line("class  samples  correct    recall  precision")?;
    for (class, told) in classes(confusion).into_iter().enumerate() {
        output::line(format!(
            "{class:>5}  {:>7}  {:>7}  {:>8}  {:>9}",
            told.samples,
            told.correct,
            percent(told.recall),
            percent(told.precision)
        ))?;
    }
    output::line("")?;
    output::line("confusion: a row for each label, a column for each prediction")?;
    let width = confusion.counts.iter().flatten().max().map_or(1, |most| most.to_string().len());
    let row = |label: &str, cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>width$}")).collect();
        format!("{label:>5}  {}", cells.join(" "))
    };
    let head = (0..confusion.counts.len()).map(|class| class.to_string()).collect();
    output::line(row("", head))?;
    for (label, counts) in confusion.counts.iter().enumerate() {
        let cells = counts.iter().map(ToString::to_string).collect();
        output::line(row(&label.to_string(), cells))?;
    }
    Ok(())
}
