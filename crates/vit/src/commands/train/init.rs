//! The model that a run starts from.

use std::path::Path;

use vit_layers::Parameters;
use vit_model::{
    Known, Layout, ModelFile, ModelInfo, Preset, VitConfig, check_fine_tunable, for_fine_tuning,
};

use crate::any_model::AnyModel;
use crate::failure::{Exit, Failure, Result};
use crate::settings::{CUSTOM, Settings};

/// Opens the model to start from. `asked` supplies what a file without a configuration does not determine, if it fits.
fn open(path: &Path, asked: Option<&VitConfig>) -> Result<AnyModel> {
    let Some(config) = asked.filter(|_| path.is_file()) else {
        return AnyModel::open(path, &Known::default());
    };
    let file = ModelFile::open(path)?;
    if file.config().is_some() {
        return AnyModel::open(path, &Known::default());
    }
    if let Ok(layout) = Layout::recognise(file.infos().keys())
        && layout.check(file.infos(), config).is_ok()
    {
        return Ok(AnyModel { file, layout, config: config.clone(), foreign: None });
    }
    let (heads, layer_norm_eps) = (Some(config.heads), Some(config.layer_norm_eps));
    AnyModel::open(path, &Known { heads, layer_norm_eps, ..Known::default() })
}

/// Takes the model's shape from the initial model, unless `is_asked` says that the user chose another.
///
/// # Errors
/// If there is no such model, or its shape conflicts with the user's choice.
pub(super) fn take_model(settings: &mut Settings, is_asked: bool) -> Result<()> {
    let Some(path) = &settings.finetune.init else {
        if settings.finetune.new_head {
            let message = "--new-head needs a model to start from";
            return Err(Failure::new(Exit::Usage, message).hint("pass --init MODEL"));
        }
        return Ok(());
    };
    let asked = &settings.model;
    let model = open(path, is_asked.then_some(asked))?;
    model.log_assumptions();
    if is_asked {
        return check_fine_tunable(&model.config, asked).map_err(|error| {
            let hint = "leave out --preset and [model]: the shape comes from the model itself";
            Failure::from(error).exit(Exit::Usage).about(path.display()).hint(hint)
        });
    }
    let is_preset = |preset: &&Preset| check_fine_tunable(&preset.config(), &model.config).is_ok();
    let preset = Preset::all().iter().find(is_preset).map_or(CUSTOM, |preset| preset.name());
    preset.clone_into(&mut settings.preset);
    settings.model = model.config;
    Ok(())
}

/// Sets the parameters to the initial model's, if there is one.
///
/// # Errors
/// If it cannot be read, or is another model.
pub(super) fn initialise(
    settings: &Settings,
    info: &ModelInfo,
    parameters: &Parameters,
) -> Result<()> {
    let Some(path) = &settings.finetune.init else { return Ok(()) };
    let about = |error: vit_model::Error| Failure::from(error).about(path.display());
    let model = open(path, Some(&settings.model))?;
    let mut values =
        for_fine_tuning(&model.parameters()?, &model.config, &settings.model).map_err(about)?;
    if values.contains_key("head.weight") && !settings.finetune.new_head {
        check_names(path, &model.info(), info)?;
    }
    if settings.finetune.new_head {
        values.retain(|name, _| !name.starts_with("head."));
    }
    for (name, var) in parameters.sorted() {
        if let Some(value) = values.get(&name) {
            var.set(&value.to_dtype(var.dtype())?.to_device(var.device())?)?;
        }
    }
    tracing::info!("started from {} ({} layout)", path.display(), model.layout);
    if !values.contains_key("head.weight") {
        let (new, old) = (settings.model.classes, model.config.classes);
        tracing::info!("the head is new: {new} classes, {} has {old}", path.display());
    }
    Ok(())
}

/// A head for the same number of other classes would start from wrong associations.
fn check_names(path: &Path, theirs: &ModelInfo, ours: &ModelInfo) -> Result<()> {
    let (theirs, ours) = (&theirs.class_names, &ours.class_names);
    if theirs.is_empty() || ours.is_empty() || theirs == ours {
        return Ok(());
    }
    let other = theirs.iter().zip(ours).position(|(theirs, ours)| theirs != ours);
    let class = other.unwrap_or_default();
    let message = format!(
        "{}: class {class} is {:?}, but the dataset's is {:?}",
        path.display(),
        theirs[class],
        ours[class]
    );
    Err(Failure::new(Exit::Usage, message)
        .hint("pass --new-head to train a head for these classes"))
}
