//! Everything a run needs before its first step: dataset, parameters, trainer.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vit_files::Digest;
use vit_layers::{Mode, Parameters};
use vit_model::{ModelInfo, Preset, VisionTransformer};
use vit_train::{
    Collective, CrossEntropy, Decay, Group, Loss, MixedCrossEntropy, TrainState, Trainer,
};

use super::images::Images;
use super::init;
use crate::dataset::{self, DataPlace, Found, Wanted};
use crate::failure::Result;
use crate::ranks::Ranks;
use crate::settings::{Asked, Finetune, Freeze, Settings};
use crate::threads::threads_on;

/// A run before its first step.
pub(crate) struct SetUp {
    /// With the dataset's name.
    pub(crate) settings: Settings,
    pub(crate) found: Found,
    /// Class names and preprocessing for the model file.
    pub(crate) info: ModelInfo,
    pub(crate) images: Images,
    pub(crate) parameters: Parameters,
    pub(crate) trainer: Trainer,
    pub(crate) device: Device,
    pub(crate) threads: usize,
}

impl SetUp {
    /// Loads the dataset, completes the settings from it where the user left them open, and builds the model and
    /// trainer. Calls `check` before building the model, which may be large.
    ///
    /// # Errors
    /// If the dataset cannot be loaded or does not suit the model, a setting is out of range, or `check` fails.
    pub(crate) fn new(
        (mut settings, asked): (Settings, Asked),
        place: &DataPlace,
        device: Device,
        (threads, ranks): (Option<u16>, &Ranks),
        check: &dyn Fn(&Found) -> Result<()>,
    ) -> Result<Self> {
        let (model, data) = (settings.model.clone(), settings.data.clone());
        let mut wanted = Wanted { model, asked, data, transform: None };
        let found = match &settings.dataset {
            Some(name) => dataset::named(name, place, &mut wanted)?,
            None => dataset::any(place)?,
        };
        dataset::fit(&found.dataset, &mut wanted)?;
        check(&found)?;
        take_over(&mut settings, wanted, found.dataset.name())?;
        let images = Images::new(&found, &settings, device.clone());
        images.check(&settings)?;
        let parameters = Parameters::seeded(settings.train.seed);
        let threads = threads_on(&device, ranks.threads(threads));
        let on = (&device, threads, ranks.collective());
        let trainer = trainer(&settings, &parameters, on)?;
        let info = found.info(&settings.model, &settings.data);
        Ok(Self { settings, found, info, images, parameters, trainer, device, threads })
    }

    /// Sets the parameters to the initial model's, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is another model.
    pub(crate) fn initialise(&self) -> Result<()> {
        init::initialise(&self.settings, &self.info, &self.parameters)
    }

    /// Resumes from a state that rank 0 has, or starts from the beginning without one.
    ///
    /// # Errors
    /// If it belongs to another model, or ranks have different data.
    pub(crate) fn go_on_from(&mut self, state: Option<&TrainState>, ranks: &Ranks) -> Result<()> {
        let told = if ranks.are_several() {
            TrainState::broadcast(state, &*ranks.collective())?
        } else {
            None
        };
        match state.or(told.as_ref()) {
            Some(state) => self.trainer.resume(state)?,
            None => self.initialise()?,
        }
        self.agree(ranks)
    }

    /// Checks that all ranks train the same parameters on the same data.
    ///
    /// # Errors
    /// If they do not; the error names the difference.
    pub(crate) fn agree(&self, ranks: &Ranks) -> Result<()> {
        if !ranks.are_several() {
            return Ok(());
        }
        let parameters = self.parameters.sorted().into_iter();
        let parameters = parameters.map(|(name, var)| (name, var.as_detached_tensor())).collect();
        let parameters = vit_model::to_bytes(&parameters, &self.settings.model)?;
        let digests = [
            ("data_sha256", self.found.digest()),
            ("parameters_sha256", Digest::of_bytes(&parameters)),
        ];
        let mut table = self.settings.to_table();
        table.extend(digests.map(|(name, digest)| (name.to_owned(), digest.to_string().into())));
        ranks.agree(&table)
    }

    /// If only the head is trained and images are not augmented, computes its input for every image once.
    ///
    /// # Errors
    /// If the device's memory is full, or an image cannot be read.
    pub(crate) fn cache_features(&mut self) -> Result<()> {
        let settings = &self.settings;
        if settings.finetune.freeze != Freeze::All {
            return Ok(());
        }
        if settings.augments() {
            tracing::info!(
                "augmented images pass the frozen layers in every epoch; without augmentation, such as with \
                 --augment-crop-scale 0 --augment-flip 0, they pass through it only once"
            );
            return Ok(());
        }
        let values = self.parameters.sorted().into_iter();
        let values = values.map(|(name, var)| (name, var.as_detached_tensor())).collect();
        let vb = VarBuilder::from_tensors(values, DType::F32, &self.device);
        self.images.cache_features(&VisionTransformer::new(&settings.model, &vb)?)
    }
}

/// Completes the settings from a dataset of this name.
///
/// # Errors
/// If the settings then describe no valid model.
fn take_over(settings: &mut Settings, wanted: Wanted, dataset: &str) -> Result<()> {
    settings.model = wanted.model;
    settings.data = wanted.data;
    let small = Preset::Pictures32.config().patch;
    if !wanted.asked.model
        && settings.preset == Preset::Pictures64.name()
        && settings.model.patch == small
    {
        Preset::Pictures32.name().clone_into(&mut settings.preset);
    }
    settings.model.check()?;
    settings.dataset = Some(dataset.to_owned());
    Ok(())
}

/// Completes settings from a dataset on disk, as a run would. Decodes only a few pictures, and downloads nothing.
///
/// # Errors
/// If the dataset cannot be read, or does not suit the model.
pub(crate) fn with_dataset(mut settings: Settings, asked: Asked) -> Result<Settings> {
    let Some(name) = settings.dataset.clone() else { return Ok(settings) };
    let (model, data) = (settings.model.clone(), settings.data.clone());
    let mut wanted = Wanted { model, asked, data, transform: None };
    if let Some(name) = dataset::inspect(&name, &mut wanted)? {
        take_over(&mut settings, wanted, &name)?;
    }
    Ok(settings)
}

/// Parameters with two or more dimensions that are no matrices, and so have no weight decay.
const NO_DECAY: [&str; 3] = ["cls_token", "pos_embed", "reg_token"];

/// A parameter's layer, from the bottom: 0 for the embedding, then one for each block (the last with the final norm),
/// then the head.
///
/// timm equivalent: the groups of `param_groups_layer_decay`.
fn layer_of(name: &str, depth: usize) -> usize {
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next());
    match block.and_then(|block| block.parse::<usize>().ok()) {
        Some(block) => block + 1,
        None if name.starts_with("head.") => depth + 1,
        None if name.starts_with("norm.") => depth,
        None => 0,
    }
}

/// A parameter's group: frozen, or with a learning rate that falls with its depth.
fn group_of(name: &str, depth: usize, finetune: &Finetune) -> Group {
    let (layer, head) = (layer_of(name, depth), depth + 1);
    let is_frozen = match finetune.freeze {
        Freeze::None => false,
        Freeze::Blocks(blocks) => layer <= blocks && !name.starts_with("norm."),
        Freeze::All => layer < head,
    };
    if is_frozen {
        return Group::frozen();
    }
    let below_head = i32::try_from(head - layer).unwrap_or(i32::MAX);
    Group::new().with_lr_scale(finetune.layer_decay.map_or(1.0, |decay| decay.powi(below_head)))
}

/// Numbers in the tokens of a pass that fits a core's second-level cache.
const NUMBERS_OF_PASS: usize = 1 << 16;

/// A trainer of a new model, with its variables in `parameters`.
///
/// # Errors
/// If a setting is out of range, or the threads cannot be started.
pub(crate) fn trainer(
    settings: &Settings,
    parameters: &Parameters,
    (device, threads, ranks): (&Device, usize, Arc<dyn Collective>),
) -> Result<Trainer> {
    let (train, model) = (&settings.train, &settings.model);
    let (decay, depth, finetune) = (train.optimizer.decay, model.depth, settings.finetune.clone());
    let trains_head_alone = finetune.freeze == Freeze::All;
    let groups = move |name: &str, _: &Tensor| {
        let group = group_of(name, depth, &finetune);
        match decay {
            Decay::Matrices if NO_DECAY.contains(&name) => group.with_weight_decay(0.0),
            _ => group,
        }
    };
    let loss: Box<dyn Loss> = if settings.augment.mixes() {
        Box::new(MixedCrossEntropy::smoothed(train.label_smoothing))
    } else {
        Box::new(CrossEntropy::smoothed(train.label_smoothing))
    };
    let trainer = Trainer::builder(train.clone()).threads(threads).ranks(ranks);
    let trainer = trainer.groups(groups).loss(loss);
    let samples = NUMBERS_OF_PASS / (model.tokens() * model.dim);
    // A quarter of the batch even where it is too large for the cache: fewer passes pack weights less often.
    let trainer = trainer.join_shards(samples.max(train.batch_size / 4));
    #[expect(unsafe_code, reason = "this module knows what the model reads")]
    // SAFETY: a Vision Transformer runs the same operations each time, on its images, its parameters and constants that
    // its layers hold and never replace; the losses hold no tensor. Only the trainer's thread uses the device until the
    // run ends: saving and drawing work on copies on the CPU.
    let trainer = unsafe { trainer.record_steps() };
    Ok(trainer.build(&parameters.builder(DType::F32, device), |vb| {
        let model = VisionTransformer::new(model, &vb)?;
        // Takes images, or precomputed features of a frozen trunk, to which its dropout does not apply.
        Ok(move |inputs: &Tensor, mode: Mode| match (inputs.rank(), trains_head_alone) {
            (2, _) => model.forward_head(inputs),
            (_, true) => model.forward_head(&model.forward_pooled(inputs, Mode::Eval)?),
            (_, false) => model.forward(inputs, mode),
        })
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that timm's `param_groups_layer_decay` gives for a ViT of two blocks.
    #[test]
    fn rates_fall_from_the_head_down() {
        let finetune = Finetune { layer_decay: Some(0.5), ..Finetune::default() };
        for (name, scale) in [
            ("head.weight", 1.0),
            ("norm.weight", 0.5),
            ("blocks.1.attn.qkv.weight", 0.5),
            ("blocks.0.norm1.bias", 0.25),
            ("patch_embed.proj.weight", 0.125),
            ("pos_embed", 0.125),
            ("cls_token", 0.125),
        ] {
            assert_eq!(group_of(name, 2, &finetune), Group::new().with_lr_scale(scale), "{name}");
        }
    }

    #[test]
    fn blocks_are_frozen_from_the_bottom() {
        let names =
            ["pos_embed", "blocks.0.ls1.gamma", "blocks.1.ls1.gamma", "norm.bias", "head.bias"];
        for (freeze, frozen) in
            [(Freeze::None, 0), (Freeze::Blocks(1), 2), (Freeze::Blocks(2), 3), (Freeze::All, 4)]
        {
            let finetune = Finetune { freeze, ..Finetune::default() };
            let is_frozen = names.map(|name| group_of(name, 2, &finetune).frozen);
            assert_eq!(is_frozen.iter().filter(|&&is_frozen| is_frozen).count(), frozen);
            assert!(is_frozen[..frozen].iter().all(|&is_frozen| is_frozen), "{freeze}");
        }
    }
}
