//! `vit predict`: a line of JSON for each image.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vit_data::Split;
use vit_model::ModelInfo;
use vit_train::EVALUATION_BATCH;

use crate::args::path;
use crate::dataset::{DataArgs, Wanted};
use crate::device::Device;
use crate::failure::{Exit, Failure, Result};
use crate::pictures::{self, Preparation, expand};
use crate::saved_model::{SavedModel, probabilities};
use crate::{dataset, output};

/// What is said of an image.
#[derive(Serialize)]
pub(crate) struct Prediction {
    #[serde(flatten)]
    subject: Subject,
    #[serde(flatten)]
    best: Ranked,
    /// The most probable classes, the first first, where they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<Ranked>>,
    /// Of each class.
    probabilities: Vec<f32>,
}

/// Which image.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Subject {
    Picture {
        image: String,
        inverted: bool,
    },
    /// One that came without a name.
    Sent {
        inverted: bool,
    },
    Example {
        index: usize,
        label: u32,
    },
}

#[derive(Clone, Serialize)]
pub(crate) struct Ranked {
    class: usize,
    /// Where it is another than the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    probability: f32,
}

/// Classifies pictures, or a dataset's images: a line of JSON each
#[derive(Debug, clap::Args)]
#[command(
    after_help = pictures::HELP,
    group = clap::ArgGroup::new("inverted").arg("invert").conflicts_with("dataset"),
    group = clap::ArgGroup::new("fitted").arg("fit").conflicts_with("dataset"),
)]
pub(crate) struct Args {
    /// A run folder, or a safetensors file that carries its configuration
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Pictures (PNG, JPEG, WebP, GIF or BMP), folders of them, or - for stdin, unless --dataset is given
    #[arg(value_name = "IMAGE", required_unless_present = "dataset", conflicts_with = "dataset", value_parser = path())]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) pictures: pictures::Args,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Which images of the dataset
    #[arg(long, requires = "dataset", default_value = "test")]
    pub(crate) split: SplitName,
    /// Add the K most probable classes, the first first
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) top_k: Option<u16>,
    /// Where to compute: cpu, cuda or cuda:N; auto is a GPU that this program can use, else the CPU
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
    let print =
        |subject, row| output::json(&Prediction::of(subject, row, args.top_k, &saved.info)?);
    if !args.images.is_empty() {
        let preparation = Preparation::new(&args.pictures, &saved)?;
        each_picture(&args.images, |path| {
            let seen = preparation.read(path, &device)?;
            for row in probabilities(&model, saved.config.output, &seen.image)? {
                let image = path.display().to_string();
                print(Subject::Picture { image, inverted: seen.inverted }, row)?;
            }
            Ok(())
        })?;
    }
    let Some(name) = &args.data.dataset else { return Ok(()) };
    let found = dataset::named(name, &args.data.place, &mut Wanted::by_saved(&saved))?;
    let split = match args.split {
        SplitName::Train => Split::Train,
        SplitName::Test => Split::Test,
    };
    let examples = found.dataset.split(split);
    let indices: Vec<u32> = (0..examples.len() as u32).collect();
    for batch in indices.chunks(EVALUATION_BATCH) {
        let (images, _labels) = examples.batch(batch, &device, candle_core::DType::F32)?;
        let rows = probabilities(&model, saved.config.output, &images)?;
        for (row, &index) in rows.into_iter().zip(batch) {
            let index = index as usize;
            print(Subject::Example { index, label: examples.label(index) }, row)?;
        }
    }
    Ok(())
}

/// Predicts each picture, also behind one that cannot be read: what is wrong is said at once, and again at the end.
fn each_picture(images: &[PathBuf], predict: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let pictures: Vec<Result<PathBuf>> = images
        .iter()
        .flat_map(|path| match expand(path) {
            Ok(paths) => paths.into_iter().map(Ok).collect(),
            Err(failure) => vec![Err(failure)],
        })
        .collect();
    let count = pictures.len();
    let mut unread = 0;
    for path in pictures {
        match path.and_then(|path| predict(&path)) {
            Err(failure) if failure.is(Exit::Data) && count > 1 => {
                failure.log();
                unread += 1;
            }
            told => told?,
        }
    }
    if unread > 0 {
        let message = format!("{unread} of {count} pictures could not be read");
        return Err(Failure::new(Exit::Data, message));
    }
    Ok(())
}

impl Prediction {
    /// # Errors
    /// If the probabilities are not finite.
    pub(crate) fn of(
        subject: Subject,
        probabilities: Vec<f32>,
        top_k: Option<u16>,
        info: &ModelInfo,
    ) -> Result<Self> {
        if !probabilities.iter().all(|probability| probability.is_finite()) {
            let message = "the model gives probabilities that are not finite";
            return Err(Failure::new(Exit::File, message));
        }
        let mut ranked: Vec<usize> = (0..probabilities.len()).collect();
        // A stable sort, so that the first of equals is the class, as in an evaluation.
        ranked.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let ranked_as = |class: usize| {
            let name = info.class_names.get(class).filter(|name| **name != class.to_string());
            Ranked { class, name: name.cloned(), probability: probabilities[class] }
        };
        let best = ranked_as(ranked[0]);
        let top = top_k.map(|count| ranked.into_iter().take(count.into()).map(ranked_as).collect());
        Ok(Self { subject, best, top, probabilities })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(probabilities: &[f32], top_k: Option<u16>) -> Result<Prediction> {
        let subject = Subject::Example { index: 0, label: 0 };
        Prediction::of(subject, probabilities.to_vec(), top_k, &ModelInfo::default())
    }

    #[test]
    fn classes_are_ranked_and_the_first_of_equals_comes_first() {
        let prediction = prediction(&[0.2, 0.3, 0.2, 0.3], Some(3)).expect("finite numbers");
        assert_eq!(prediction.best.class, 1);
        let top = prediction.top.expect("asked for");
        assert_eq!(top.iter().map(|ranked| ranked.class).collect::<Vec<_>>(), [1, 3, 0]);
    }

    #[test]
    fn numbers_that_are_not_finite_are_no_prediction() {
        assert!(prediction(&[0.5, f32::NAN], None).is_err());
    }
}
