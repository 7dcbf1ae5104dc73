//! `vit eval`: accuracy, metrics by class, and confusions.

use std::path::PathBuf;

use candle_core::DType;
use serde_json::json;
use vit_model::ModelInfo;
use vit_train::{Batch, Confusion, Evaluation};

use crate::args::path;
use crate::columns;
use crate::dataset::DataArgs;
use crate::dataset::{self, Found, Wanted};
use crate::device::Device;
use crate::failure::{Exit, Failure, Result};
use crate::output::{self, percent, thousands};
use crate::progress::Counter;
use crate::saved_model::SavedModel;
use crate::terminal::stdout;
use crate::threads::threads_on;

/// Measures a model's accuracy on a dataset
#[derive(Debug, clap::Args)]
#[command(after_help = MEASURED_ON)]
pub(crate) struct Args {
    /// A run directory, a checkpoint, or a safetensors file from vit
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Threads, 1 to 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Device: cpu, cuda or cuda:N; auto is a usable GPU, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const MEASURED_ON: &str = "\
Without --dataset, a run is tested on its own dataset, a file on MNIST.";

pub(super) fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let saved = SavedModel::open(&args.model)?;
    let of_run = saved.run.as_ref().and_then(|run| run.dataset.as_deref());
    let name = args.data.dataset.as_deref().or(of_run).unwrap_or(vit_fetch::MNIST.name);
    let found = dataset::named(name, &args.data.place, &mut Wanted::by_saved(&saved))?;
    let model = saved.build(&device)?;
    let (test, split) = found.measured();
    if test.is_empty() {
        let message = format!("{} has no test split", found.dataset.name());
        return Err(Failure::new(Exit::Data, message));
    }
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
        tracing::warn!("the loss is {loss}: the model's outputs are too large or not finite");
    }
    let confusion = evaluation.confusion(saved.config.classes);
    let names = names(&saved.info, &found, saved.config.classes);
    if args.json {
        return output::json(&as_json((&found, split), &evaluation, &confusion, &names));
    }
    print((&found, split), &evaluation, &confusion, &names)
}

/// Class names of the model, else of the dataset.
fn names(info: &ModelInfo, found: &Found, classes: usize) -> Vec<String> {
    if info.class_names.is_empty() {
        let class_names = found.dataset.class_names().to_vec();
        return ModelInfo { class_names, transform: None }.all_names(classes);
    }
    info.all_names(classes)
}

/// Macro average of recall, over classes with samples; NaN if there are none.
fn macro_recall(classes: &[Class]) -> f64 {
    let recalls = || classes.iter().filter(|class| class.samples > 0).map(|class| class.recall);
    recalls().sum::<f64>() / recalls().count() as f64
}

/// The most frequent confusions: (count, label, prediction).
fn worst_pairs(confusion: &Confusion) -> Vec<(usize, usize, usize)> {
    let mut pairs: Vec<_> = cells(confusion).filter(|&(_, a, b)| a != b).collect();
    // A stable sort: ties stay in the order of their labels.
    pairs.sort_by_key(|&(count, ..)| std::cmp::Reverse(count));
    pairs.truncate(WORST_PAIRS);
    pairs
}

/// The off-diagonal cells: (count, label, prediction).
fn cells(confusion: &Confusion) -> impl Iterator<Item = (usize, usize, usize)> {
    let rows = confusion.counts.iter().enumerate();
    rows.flat_map(|(label, row)| row.iter().map(move |(&to, &count)| (count, label, to)))
}

/// In JSON, a matrix of more classes is a list of its non-zero cells.
const JSON_MATRIX_CLASSES: usize = 1000;
/// A larger matrix would be unreadable; the most frequent confusions are listed instead.
const MATRIX_CLASSES: usize = 20;
const WORST_PAIRS: usize = 10;
/// Top-5 accuracy is shown for more classes than this.
const TOP_5: usize = 10;

/// Metrics of one class.
struct Class {
    samples: usize,
    predicted: usize,
    correct: usize,
    recall: f64,
    precision: f64,
}

fn classes(confusion: &Confusion) -> Vec<Class> {
    let rows = confusion.counts.iter().enumerate().zip(confusion.predicted());
    let each = rows.map(|((class, row), predicted)| {
        let correct = confusion.count(class, class);
        let samples = row.values().sum();
        let share = |of: usize| correct as f64 / of as f64;
        Class { samples, predicted, correct, recall: share(samples), precision: share(predicted) }
    });
    each.collect()
}

fn as_json(
    (found, split): (&Found, &str),
    evaluation: &Evaluation,
    confusion: &Confusion,
    names: &[String],
) -> serde_json::Value {
    let classes = classes(confusion);
    let each = classes.iter().zip(names).enumerate().map(|(class, (told, name))| {
        json!({
            "class": class,
            "name": name,
            "samples": told.samples,
            "correct": told.correct,
            "recall": told.recall,
            "precision": told.precision,
        })
    });
    let is_dense = classes.len() <= JSON_MATRIX_CLASSES;
    let row = |label: usize| -> Vec<usize> {
        (0..classes.len()).map(|taken| confusion.count(label, taken)).collect()
    };
    let rows = is_dense.then(|| (0..classes.len()).map(row).collect::<Vec<_>>());
    let occurring =
        || cells(confusion).map(|(count, label, taken)| [label, taken, count]).collect::<Vec<_>>();
    let mut result = json!({
        "accuracy": evaluation.accuracy(),
        "top_5": evaluation.top(5),
        "macro_recall": macro_recall(&classes),
        "correct": evaluation.correct(),
        "samples": evaluation.total(),
        "loss": evaluation.loss(),
        "dataset": found.dataset.name(),
        "split": split,
        "classes": each.collect::<Vec<_>>(),
    });
    match rows {
        Some(rows) => result["confusion"] = json!(rows),
        None => result["confusion_counts"] = json!(occurring()),
    }
    result
}

fn print(
    (found, split): (&Found, &str),
    evaluation: &Evaluation,
    confusion: &Confusion,
    names: &[String],
) -> Result<()> {
    let classes = classes(confusion);
    output::line(format!("dataset   {found}, {split} images"))?;
    output::line(format!(
        "accuracy  {} ({} of {})",
        percent(evaluation.accuracy()),
        thousands(evaluation.correct() as u64),
        thousands(evaluation.total() as u64)
    ))?;
    if classes.len() > TOP_5 {
        output::line(format!("top-5     {}", percent(evaluation.top(5))))?;
    }
    output::line(format!("recall    {} (macro average)", percent(macro_recall(&classes))))?;
    output::line(format!("loss      {:.4}", evaluation.loss()))?;
    output::line("")?;
    // Recall needs samples of the class, precision needs predictions of it.
    let share = |of: usize, share: f64| if of == 0 { "–".to_owned() } else { percent(share) };
    let headings = ["class", "recall", "precision", "samples", "correct"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (told, name) in classes.iter().zip(names) {
        let shares = [share(told.samples, told.recall), share(told.predicted, told.precision)];
        let counts = [told.samples, told.correct].map(|count| count.to_string());
        rows.push([&[name.clone()][..], &shares, &counts].concat());
    }
    columns::table(&rows, stdout::width()).iter().try_for_each(output::line)?;
    output::line("")?;
    let matrix = matrix(confusion, names);
    let width = stdout::width().unwrap_or(usize::MAX);
    if classes.len() > MATRIX_CLASSES || matrix.iter().any(|line| columns::width(line) > width) {
        output::line("most frequent confusions:")?;
        for (count, label, prediction) in worst_pairs(confusion) {
            output::line(format!("{count:>7}  {} as {}", names[label], names[prediction]))?;
        }
        return Ok(());
    }
    output::line("confusion: a row for each label, a column for each prediction")?;
    matrix.iter().try_for_each(output::line)
}

/// A row for each label, a column for each prediction, with names as headings if all are short.
fn matrix(confusion: &Confusion, names: &[String]) -> Vec<String> {
    let length = |name: &String| name.chars().count();
    let most = cells(confusion).map(|(count, ..)| count).max();
    let most = most.map_or(1, |most| most.to_string().len());
    let is_short = names.iter().all(|name| length(name) <= most.max(3));
    let head = |class: usize| if is_short { names[class].clone() } else { class.to_string() };
    let title = |class: usize| {
        if is_short { names[class].clone() } else { format!("{class} {}", names[class]) }
    };
    let (heads, titles): (Vec<String>, Vec<String>) =
        (0..names.len()).map(|class| (head(class), title(class))).unzip();
    let width = heads.iter().map(length).max().unwrap_or(1).max(most);
    let first = titles.iter().map(length).max().unwrap_or(0).max(5);
    let row = |label: &str, cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>width$}")).collect();
        format!("{label:>first$}  {}", cells.join(" "))
    };
    let counts = titles.iter().enumerate().map(|(label, title)| {
        let counts = (0..titles.len()).map(|taken| confusion.count(label, taken));
        let cells: Vec<String> = counts.map(|count| count.to_string()).collect();
        row(title, &cells)
    });
    std::iter::once(row("", &heads)).chain(counts).collect()
}
