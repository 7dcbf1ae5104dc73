//! The record of a run that diverged.

use std::path::PathBuf;

use serde_json::json;
use vit_files::write_atomically;
use vit_run::{DIVERGED, RunFolder};
use vit_train::Data;

use super::set_up::SetUp;
use crate::failure::{Divergence, Result};

/// Writes `diverged.json`: the step, the value and the step's samples. A resumed run meets the same step.
pub(super) fn write(
    folder: &RunFolder,
    divergence: &Divergence,
    set_up: &SetUp,
) -> Result<PathBuf> {
    let Divergence { step, epoch, what, value } = divergence;
    let order = set_up.images.order(*epoch);
    let of_step = set_up.settings.train.samples_of_step();
    let steps = (order.len() / of_step) as u64;
    let step_of_epoch = step.saturating_sub(1).saturating_sub((epoch - 1) * steps) as usize;
    let samples = order.chunks_exact(of_step).nth(step_of_epoch);
    let facts = json!({
        "step": step,
        "epoch": epoch,
        "what": what,
        "value": value.to_string(),
        "seed": set_up.settings.train.seed,
        "samples": samples,
    });
    let path = folder.path().join(DIVERGED);
    write_atomically(&path, format!("{facts:#}\n").as_bytes())?;
    Ok(path)
}
