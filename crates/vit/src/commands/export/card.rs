//! The model card: `README.md` of a folder for timm or transformers, as shown on the Hugging Face Hub.

use std::fmt::Write;
use std::path::Path;

use vit_model::{Fit, Layout, Summary, VitConfig};
use vit_run::{EpochMetrics, METRICS, read_metrics};

use crate::failure::Result;
use crate::output::{percent, thousands};
use crate::saved_model::SavedModel;
use crate::settings::Settings;

/// Most class names listed.
const MOST_NAMES: usize = 100;

/// A model's card.
///
/// # Errors
/// If the run's metrics cannot be read.
pub(super) fn of(
    model: &SavedModel,
    source: &Path,
    folder: &Path,
    layout: Layout,
) -> Result<String> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let metrics = source.join(METRICS);
    let last = match &model.run {
        Some(_) if metrics.exists() => read_metrics(&metrics)?.epochs.pop(),
        _ => None,
    };
    let mut card = front_matter(layout);
    let title = if name.is_empty() { "A Vision Transformer".into() } else { plain(&name) };
    let sections = [
        format!("# {title}"),
        task(model)?,
        usage(model, layout),
        data(model.run.as_ref()),
        figures(last.as_ref()),
        recipe(model.run.as_ref()),
    ];
    card += &sections.join("\n\n");
    card.push('\n');
    Ok(card)
}

fn front_matter(layout: Layout) -> String {
    let library = if layout == Layout::Timm { "timm" } else { "transformers" };
    format!(
        "---\nlibrary_name: {library}\npipeline_tag: image-classification\ntags:\n- image-classification\n- vision-transformer\n---\n\n"
    )
}

fn task(model: &SavedModel) -> Result<String> {
    let VitConfig { image, patch, dim, depth, heads, classes, .. } = model.config;
    let kind = if image.channels == 1 { "grey" } else { "colour" };
    let mut text = format!(
        "A Vision Transformer that sorts {kind} images of {height}x{width} pixels into {classes} classes: \
         {parameters} parameters, patches of {patch_height}x{patch_width}, {depth} blocks of width {dim} with {heads} heads.\n\n\
         Classes: ",
        height = image.height,
        width = image.width,
        parameters = thousands(Summary::of(&model.config)?.parameters() as u64),
        patch_height = patch.height,
        patch_width = patch.width,
    );
    let names = model.info.all_names(classes);
    let listed: Vec<String> =
        names.iter().take(MOST_NAMES).map(|name| format!("`{}`", plain(name))).collect();
    text += &listed.join(", ");
    let more = names.len().saturating_sub(MOST_NAMES);
    text += &if more > 0 { format!(" and {more} more.") } else { ".".to_owned() };
    Ok(text)
}

fn usage(model: &SavedModel, layout: Layout) -> String {
    let mut text = "## Use\n\n```python\n".to_owned();
    text += match layout {
        Layout::Timm => {
            "import timm\n\nmodel = timm.create_model(\"local-dir:FOLDER\", pretrained=True).eval()\n\
             transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        }
        Layout::Hf | Layout::Notebook => {
            "from transformers import pipeline\n\nclassify = pipeline(\"image-classification\", model=\"FOLDER\")\n\
             print(classify(\"picture.png\"))\n"
        }
    };
    text += "```";
    if layout == Layout::Hf && model.config.image.channels == 1 {
        text += "\n\nThe model was trained on grey images. Its patch embedding has three channels here, the grey weights times 0.299, \
                 0.587 and 0.114: grey pictures give the same output, and a colour picture gives its luma's.";
    }
    if model.info.transform.as_ref().is_some_and(|transform| transform.fit == Fit::Mnist) {
        text += "\n\nThe model expects light strokes on a dark ground, placed as in MNIST. `vit predict` finds and places a digit on \
                 paper; the code above only scales the picture.";
    }
    text
}

/// The dataset's name; a folder's full path is private.
fn data(run: Option<&Settings>) -> String {
    let text = match run.and_then(|run| run.dataset.as_deref()) {
        Some(dataset) => format!("Trained on `{}`.", plain(&last_part(dataset))),
        None => "Unknown: the exported file does not record it.".to_owned(),
    };
    format!("## Data\n\n{text}")
}

fn figures(last: Option<&EpochMetrics>) -> String {
    let Some(epoch) = last else {
        return "## Figures\n\nUnknown: the exported file does not record them.".to_owned();
    };
    let mut text = format!(
        "## Figures\n\nAfter epoch {}:\n\n| images | loss | top-1 accuracy |\n|---|---|---|\n",
        epoch.epoch
    );
    for (images, loss, accuracy) in [
        ("training", Some(epoch.train_loss), Some(epoch.train_accuracy)),
        ("validation", epoch.val_loss, epoch.val_accuracy),
        ("test", epoch.test_loss, epoch.test_accuracy),
    ] {
        if let (Some(loss), Some(accuracy)) = (loss, accuracy) {
            writeln!(text, "| {images} | {loss:.4} | {} |", percent(accuracy))
                .expect("a string has room");
        }
    }
    text + "\nTraining figures are measured in training mode, over the epoch."
}

fn recipe(run: Option<&Settings>) -> String {
    let Some(run) = run else {
        return "## Recipe\n\nUnknown: the exported file does not record it.".to_owned();
    };
    let mut run = run.clone();
    run.dataset = run.dataset.map(|dataset| last_part(&dataset));
    run.finetune.init = run.finetune.init.and_then(|path| Some(path.file_name()?.into()));
    format!(
        "## Recipe\n\nThis `config.toml` repeats the training with `vit train --config config.toml`:\n\n```toml\n{}```",
        run.to_visible_toml()
    )
}

fn last_part(path: &str) -> String {
    Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy().into_owned())
}

/// A name inside a line of Markdown code.
fn plain(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_control() || letter == '`' { ' ' } else { letter })
        .collect()
}
