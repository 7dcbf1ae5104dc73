//! What a run needs before its first step: the dataset, the parameters, the trainer.

use candle_core::{DType, Device, Tensor};
use vit_layers::{Mode, Parameters};
use vit_model::{Layout, ModelFile, VisionTransformer};
use vit_train::{CrossEntropy, Decay, Group, Loss, MixedCrossEntropy, Trainer};

use super::images::Images;
use crate::dataset::{self, DataPlace, Found, Wanted};
use crate::failure::{Failure, Result};
use crate::settings::{Asked, Settings};
use crate::threads::threads_on;

/// A run that has taken no step.
pub(crate) struct SetUp {
    /// With the dataset's name.
    pub(crate) settings: Settings,
    pub(crate) found: Found,
    pub(crate) images: Images,
    pub(crate) parameters: Parameters,
    pub(crate) trainer: Trainer,
    pub(crate) device: Device,
    pub(crate) threads: usize,
}

impl SetUp {
    /// Finds the dataset, whose images and classes are those of the model where nobody asked for others, and makes a new model
    /// and its trainer. Before there is a model, which may be large, `check` is asked.
    ///
    /// # Errors
    /// If the dataset cannot be had or is not for this model, the settings are out of range, or `check` fails.
    pub(crate) fn new(
        (mut settings, asked): (Settings, Asked),
        place: &DataPlace,
        device: Device,
        threads: Option<u16>,
        check: &dyn Fn(&Found) -> Result<()>,
    ) -> Result<Self> {
        let mut wanted = Wanted { model: settings.model.clone(), asked };
        let found = match &settings.dataset {
            Some(name) => dataset::named(name, place, &mut wanted)?,
            None => dataset::any(place)?,
        };
        dataset::fit(&found.dataset, &mut wanted)?;
        check(&found)?;
        settings.model = wanted.model;
        settings.model.check()?;
        settings.dataset = Some(found.dataset.name().to_owned());
        let images = Images::new(&found, &settings, device.clone());
        images.check(&settings)?;
        let parameters = Parameters::seeded(settings.train.seed);
        let threads = threads_on(&device, threads);
        let trainer = trainer(&settings, &parameters, &device, threads)?;
        Ok(Self { settings, found, images, parameters, trainer, device, threads })
    }

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

/// A model's parameters of rank 2 or more that weight decay leaves alone where it acts on matrices: they are no weights of a
/// product.
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
) -> Result<Trainer> {
    let (train, model) = (&settings.train, &settings.model);
    let is_spared = |name: &str| NO_DECAY.contains(&name);
    let decay = train.optimizer.decay;
    let groups = move |name: &str, _: &Tensor| match decay {
        Decay::Matrices if is_spared(name) => Group::new().with_weight_decay(0.0),
        _ => Group::new(),
    };
    let loss: Box<dyn Loss> = if settings.augment.mixes() {
        Box::new(MixedCrossEntropy::smoothed(train.label_smoothing))
    } else {
        Box::new(CrossEntropy::smoothed(train.label_smoothing))
    };
    let trainer = Trainer::builder(train.clone()).threads(threads).groups(groups).loss(loss);
    #[expect(unsafe_code, reason = "what this model reads is known here")]
    // SAFETY: a Vision Transformer computes the same operations each time, of its images, its parameters and constants that
    // its layers hold and never replace; the losses hold no tensor. The trainer's thread alone uses the device until the run
    // has ended: what saves and draws meanwhile works on copies on the CPU.
    let trainer = unsafe { trainer.record_steps() };
    Ok(trainer.build(&parameters.builder(DType::F32, device), |vb| {
        let model = VisionTransformer::new(model, &vb)?;
        Ok(move |images: &Tensor, mode: Mode| model.forward(images, mode))
    })?)
}
