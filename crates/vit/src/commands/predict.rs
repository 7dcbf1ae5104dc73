//! `vit predict`: a line of JSON for each image.

use serde::Serialize;
use vit_data::Split;

use crate::cli;
use crate::failure::{Exit, Failure, Result};
use crate::saved_model::{SavedModel, probabilities};
use crate::{dataset, output, pictures};

/// What is said of an image.
#[derive(Serialize)]
struct Prediction {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<u32>,
    class: usize,
    probability: f32,
    probabilities: Vec<f32>,
}

/// Images of a dataset given to the model at once.
const BATCH: usize = 100;

pub(super) fn run(args: &cli::Predict) -> Result<()> {
    let device = args.device.open()?;
    let saved = SavedModel::open(&args.model)?;
    let model = saved.build(&device)?;
    for path in &args.images {
        let picture = pictures::read(path, saved.config.image, &device)?;
        for row in probabilities(&model, saved.config.output, &picture)? {
            let image = Some(path.display().to_string());
            output::json(&Prediction { image, ..Prediction::of(row)? })?;
        }
    }
    let Some(name) = &args.data.dataset else { return Ok(()) };
    let found = dataset::named(name, &args.data.place)?;
    super::eval::check_fit(&found.dataset, &saved.config)?;
    let split = match args.split {
        cli::Split::Train => Split::Train,
        cli::Split::Test => Split::Test,
    };
    let examples = found.dataset.split(split);
    let indices: Vec<u32> = (0..examples.len() as u32).collect();
    let mut index = 0;
    for batch in indices.chunks(BATCH) {
        let (images, labels) = examples.batch(batch, &device, candle_core::DType::F32)?;
        let labels = labels.to_vec1::<u32>()?;
        for (row, label) in
            probabilities(&model, saved.config.output, &images)?.into_iter().zip(labels)
        {
            let (index_of_row, label) = (Some(index), Some(label));
            output::json(&Prediction { index: index_of_row, label, ..Prediction::of(row)? })?;
            index += 1;
        }
    }
    Ok(())
}

impl Prediction {
    fn of(probabilities: Vec<f32>) -> Result<Self> {
        let best =
            probabilities.iter().copied().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
        match best {
            Some((class, probability)) if probability.is_finite() => Ok(Self {
                image: None,
                index: None,
                label: None,
                class,
                probability,
                probabilities,
            }),
            _ => Err(Failure::new(Exit::File, "the model gives probabilities that are not finite")),
        }
    }
}
