//! The printed result of a run.

use serde_json::json;
use vit_run::{REPORT, RunFolder, read_metrics};

use crate::dataset::Found;
use crate::failure::Result;
use crate::output::{self, percent};
use crate::settings::Settings;
use crate::terminal::quoted;

/// Prints the next commands.
pub(super) fn tell_next(folder: &RunFolder) {
    let run = quoted(folder.path());
    tracing::info!("next:");
    tracing::info!("  open {} in a browser", folder.path().join(REPORT).display());
    tracing::info!("  vit eval {run}");
    tracing::info!("  vit predict {run} PICTURE.png");
}

pub(super) fn print(
    as_json: bool,
    settings: &Settings,
    found: &Found,
    folder: &RunFolder,
) -> Result<()> {
    let epochs = read_metrics(&folder.metrics())?.epochs;
    let Some(epoch) = epochs.last() else { return Ok(()) };
    let best = vit_train::Best::of(&epochs).epoch();
    let best = best.and_then(|best| epochs.iter().find(|epoch| epoch.epoch == best));
    if as_json {
        let mut result = json!({
            "run": folder.path().display().to_string(),
            "preset": settings.preset,
            "dataset": found.dataset.name(),
            "epoch": epoch.epoch,
            "step": epoch.step,
            "train_loss": epoch.train_loss,
            "train_accuracy": epoch.train_accuracy,
            "test_loss": epoch.test_loss,
            "test_accuracy": epoch.test_accuracy,
        });
        if let Some(best) = best {
            result["val_loss"] = epoch.val_loss.into();
            result["val_accuracy"] = epoch.val_accuracy.into();
            result["best_epoch"] = best.epoch.into();
            result["best_val_accuracy"] = best.val_accuracy.into();
            result["best_test_accuracy"] = best.test_accuracy.into();
        }
        return output::json(&result);
    }
    output::line(format!("dataset         {found}"))?;
    output::line(format!("train accuracy  {}", percent(epoch.train_accuracy)))?;
    if let Some(accuracy) = epoch.val_accuracy {
        output::line(format!("val accuracy    {}", percent(accuracy)))?;
    }
    if let Some(accuracy) = epoch.test_accuracy {
        output::line(format!("test accuracy   {}", percent(accuracy)))?;
    }
    if let Some((best, accuracy)) = best.and_then(|best| Some((best, best.val_accuracy?))) {
        output::line(format!(
            "best epoch      {}: val {}{}, in {}",
            best.epoch,
            percent(accuracy),
            best.test_accuracy
                .map(|share| format!(", test {}", percent(share)))
                .unwrap_or_default(),
            folder.best().display()
        ))?;
    }
    output::line(format!("run directory   {}", folder.path().display()))
}
