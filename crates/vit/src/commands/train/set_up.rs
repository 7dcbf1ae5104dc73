//! What a run needs before its first step: the dataset, the parameters, the trainer.

use candle_core::{DType, Device, Tensor};
use vit_layers::{Mode, Parameters};
use vit_model::{Layout, ModelFile, VisionTransformer};
use vit_train::{Forward, Trainer};

use super::images::Images;
use crate::commands::threads_on;
use crate::dataset::{self, DataPlace, Found};
use crate::failure::{Failure, Result};
use crate::settings::Settings;

/// A run that has taken no step.
pub(crate) struct SetUp<F> {
    /// With the dataset's name.
    pub(crate) settings: Settings,
    pub(crate) found: Found,
    pub(crate) images: Images,
    pub(crate) parameters: Parameters,
    pub(crate) trainer: Trainer<F>,
    pub(crate) device: Device,
    pub(crate) threads: usize,
}

impl SetUp<()> {
    /// Finds the dataset, and makes a new model and its trainer. Before there is a model, which may be large, `check` is asked.
    ///
    /// # Errors
    /// If the dataset cannot be had or is not for this model, the settings are out of range, or `check` fails.
    pub(crate) fn new(
        mut settings: Settings,
        place: &DataPlace,
        device: Device,
        threads: Option<u16>,
        check: &dyn Fn(&Found) -> Result<()>,
    ) -> Result<SetUp<impl Forward + use<>>> {
        let found = match &settings.dataset {
            Some(name) => dataset::named(name, place, &settings.model)?,
            None => dataset::any(place)?,
        };
        dataset::check_fit(&found.dataset, &settings.model)?;
        check(&found)?;
        settings.dataset = Some(found.dataset.name().to_owned());
        let images = Images::new(&found, &settings, device.clone());
        images.check(&settings)?;
        let parameters = Parameters::seeded(settings.train.seed);
        let threads = threads_on(&device, threads);
        let trainer = trainer(&settings, &parameters, &device, threads)?;
        Ok(SetUp { settings, found, images, parameters, trainer, device, threads })
    }
}

impl<F> SetUp<F> {
    /// Gives the parameters the values of the file that they are to begin as, of whatever layout, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is of another model.
    pub(crate) fn initialise(&self) -> Result<()> {
        let Some((file, layout)) = initial(&self.settings)? else { return Ok(()) };
        let path = file.path();
        let about = |error: vit_model::Error| Failure::from(error).about(path.display());
        let values = layout.import_file(&file, &self.settings.model).map_err(about)?;
        for (name, var) in self.parameters.sorted() {
            var.set(&values[&name].to_dtype(var.dtype())?.to_device(var.device())?)?;
        }
        tracing::info!("began with {} ({layout} layout)", path.display());
        Ok(())
    }
}

/// The file that the parameters are to begin as, if there is one, and whose names it has.
///
/// # Errors
/// If it cannot be read, or is of another model.
pub(crate) fn initial(settings: &Settings) -> Result<Option<(ModelFile, Layout)>> {
    let Some(path) = &settings.init else { return Ok(None) };
    let about = |error: vit_model::Error| Failure::from(error).about(path.display());
    let file = ModelFile::open(path)?;
    let layout = Layout::recognise(file.infos().keys()).map_err(about)?;
    layout.check(file.infos(), &settings.model).map_err(about)?;
    Ok(Some((file, layout)))
}

/// Those of a model's parameters that are matrices by their shape alone, and stay where they are drawn.
const NO_DECAY: [&str; 3] = ["cls_token", "pos_embed", "reg_token"];

/// A trainer of a new model, whose variables are made in `parameters`.
///
/// # Errors
/// If the settings are out of range, or the threads cannot be started.
pub(crate) fn trainer(
    settings: &Settings,
    parameters: &Parameters,
    device: &Device,
    threads: usize,
) -> Result<Trainer<impl Forward + use<>>> {
    let trained = VisionTransformer::new(&settings.model, &parameters.builder(DType::F32, device))?;
    let evaluated =
        VisionTransformer::new(&settings.model, &parameters.detached_builder(DType::F32, device))?;
    let forward = move |images: &Tensor, mode: Mode| match mode {
        Mode::Eval => evaluated.forward(images, mode),
        Mode::Train(_) => trained.forward(images, mode),
    };
    let trainer = Trainer::new(settings.train.clone(), forward, parameters.sorted(), threads)?;
    Ok(trainer.sparing(&NO_DECAY)?)
}
