//! Confusion matrix and mistakes on the test images.

use candle_core::{DType, Device};
use vit_data::Examples;
use vit_layers::Mode;
use vit_model::{VisionTransformer, VitConfig};
use vit_report::{Mistake, Tested};
use vit_train::Batch;

use super::image::picture_of;
use crate::failure::Result;
use crate::saved_model::probabilities;

/// Mistakes kept for each cell of the confusion matrix, beyond the worst ones.
const OF_CELL: usize = 6;
/// Limit of all their pixels: a report is a single file.
const PIXELS: usize = 600_000;
/// Mistakes searched for the worst: an untrained model makes little else.
const LOOKED_AT: usize = 2_000;

/// Evaluates the first `seen` images.
pub(super) fn tested(
    model: &VisionTransformer,
    config: &VitConfig,
    test: &Examples,
    seen: usize,
    (device, threads): (&Device, usize),
) -> Result<Tested> {
    let evaluation = vit_train::evaluate(
        &|images: &candle_core::Tensor, mode: Mode| model.forward(images, mode),
        seen,
        threads,
        |indices| {
            let (images, labels) = test.batch(indices, device, DType::F32)?;
            Ok(Batch::new(images, labels))
        },
    )?;
    let wrong = (0..).zip(evaluation.labels.iter().zip(&evaluation.predictions));
    let wrong = wrong.filter(|(_, (label, prediction))| label != prediction);
    let wrong: Vec<u32> = wrong.map(|(index, _)| index).take(LOOKED_AT).collect();
    Ok(Tested {
        available: test.len(),
        confusion: evaluation.confusion(config.classes).counts,
        mistakes: worst(model, config, test, &wrong, device)?,
    })
}

/// The images whose true label got the lowest probability, lowest first.
fn worst(
    model: &VisionTransformer,
    config: &VitConfig,
    test: &Examples,
    wrong: &[u32],
    device: &Device,
) -> Result<Vec<Mistake>> {
    let mut rows = Vec::new();
    for indices in wrong.chunks(vit_train::EVALUATION_BATCH) {
        let (images, labels) = test.batch(indices, device, DType::F32)?;
        let each = probabilities(model, config.output, &images)?;
        let each = indices.iter().zip(labels.to_vec1::<u32>()?).zip(each);
        rows.extend(each.map(|((&index, label), row)| (index as usize, label as usize, row)));
    }
    rows.sort_by(|(_, a, row_a), (_, b, row_b)| row_a[*a].total_cmp(&row_b[*b]));
    let mut of_cells = vec![0; config.classes * config.classes];
    let (mut mistakes, mut pixels) = (Vec::new(), 0);
    for (index, label, row) in rows {
        let class = vit_train::argmax(&row) as usize;
        let of_cell = &mut of_cells[label * config.classes + class];
        let is_worst = mistakes.len() < vit_report::WORST;
        if is_worst || (*of_cell < OF_CELL && pixels < PIXELS) {
            *of_cell += 1;
            let picture = picture_of(test, index)?;
            pixels += picture.width() * picture.height();
            mistakes.push(Mistake { index, picture, label, prediction: (class, row[class]) });
        }
    }
    Ok(mistakes)
}
