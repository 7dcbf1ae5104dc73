//! The content of a run's report: its model, evaluated on test images.

mod attention;
mod image;
mod tested;

use candle_core::{D, Device, Tensor};
use vit_model::{ModelInfo, Summary};
use vit_patch::Position;
use vit_report::{Positions, Report};

pub(crate) use attention::{attention, patch_weights};

use crate::dataset::Found;
use crate::failure::Result;
use crate::output::thousands;
use crate::saved_model::SavedModel;
use crate::settings::Settings;

/// Limit of multiply-adds for a report: some seconds on one core. MNIST presets are far below it; for a large model
/// fewer images are evaluated, and the report states how many.
const EFFORT: u64 = 60_000_000_000;
/// Smallest number of images, however large the model.
const FEWEST_IMAGES: u64 = 16;

/// The report of a run in progress, without evaluating its model.
///
/// # Errors
/// If the model's settings are invalid.
pub(crate) fn so_far(
    settings: &Settings,
    found: &Found,
    info: &ModelInfo,
    environment: Vec<(String, String)>,
) -> Result<Report> {
    let summary = Summary::of(&settings.model)?;
    let in_progress = "The run had not ended when this was written. If it was killed, `vit train --resume RUN` continues it.".to_owned();
    Ok(Report {
        notes: std::iter::once(in_progress).chain(found.warning()).collect(),
        class_names: info.all_names(settings.model.classes),
        environment,
        ..of_run(&settings.preset, found, &summary)
    })
}

fn of_run(preset: &str, found: &Found, summary: &Summary) -> Report {
    Report {
        title: format!("{preset} on {}", found.dataset.name()),
        notes: found.warning().into_iter().collect(),
        facts: vec![
            ("parameters".to_owned(), thousands(summary.parameters() as u64)),
            ("dataset".to_owned(), found.to_string()),
        ],
        ..Report::default()
    }
}

/// The report of the model in a run directory.
///
/// # Errors
/// If there is no model, or evaluating it fails.
pub(crate) fn look_at(
    saved: &SavedModel,
    found: &Found,
    device: &Device,
    threads: usize,
) -> Result<Report> {
    let summary = Summary::of(&saved.config)?;
    let model = saved.build(device)?;
    let (test, _split) = found.measured();
    let affordable = (EFFORT / summary.multiply_adds().max(1)).max(FEWEST_IMAGES) as usize;
    let seen = test.len().min(affordable);
    let preset = saved.run.as_ref().map_or("a model", |run| &run.preset);
    Ok(Report {
        class_names: saved.info.all_names(saved.config.classes),
        tested: Some(tested::tested(&model, &saved.config, &test, seen, (device, threads))?),
        positions: positions(saved)?,
        attention: attention::of_samples(&model, &saved.config, &test, seen, device)?,
        ..of_run(preset, found, &summary)
    })
}

/// Cosine similarities between the patches' rows of a learned position table.
fn positions(saved: &SavedModel) -> Result<Option<Positions>> {
    let config = &saved.config;
    let (Position::Learned, Some(table)) = (config.position, saved.parameters.get("pos_embed"))
    else {
        return Ok(None);
    };
    let table = table.squeeze(0)?; // (rows, dim)
    let grid = config.patch_config().grid();
    let patches = grid.0 * grid.1;
    let table = table.narrow(0, table.dim(0)? - patches, patches)?;
    let norms = table.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    // A row of zeros has similarity 0.
    let unit = table.broadcast_div(&norms.maximum(f64::from(f32::MIN_POSITIVE))?)?;
    let similarities = cosines(&unit)?.to_vec2()?;
    Ok(Some(Positions { grid, similarities }))
}

/// `unit` (patches, dim) -> (patches, patches)
fn cosines(unit: &Tensor) -> candle_core::Result<Tensor> {
    unit.matmul(&unit.t()?)
}
