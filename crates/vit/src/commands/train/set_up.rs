//! What a run needs before its first step: the dataset, the parameters, the trainer.

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

/// A run that has taken no step.
pub(crate) struct SetUp {
    /// With the dataset's name.
    pub(crate) settings: Settings,
    pub(crate) found: Found,
    /// What the model's file says of classes and pictures.
    pub(crate) info: ModelInfo,
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
        (threads, ranks): (Option<u16>, &Ranks),
        check: &dyn Fn(&Found) -> Result<()>,
    ) -> Result<Self> {
        let (model, data) = (settings.model.clone(), settings.data.clone());
        let mut wanted = Wanted { model, asked, data };
        let found = match &settings.dataset {
            Some(name) => dataset::named(name, place, &mut wanted)?,
            None => dataset::any(place)?,
        };
        dataset::fit(&found.dataset, &mut wanted)?;
        check(&found)?;
        settings.model = wanted.model;
        settings.data = wanted.data;
        let small = Preset::Pictures32.config().patch;
        if !asked.model
            && settings.preset == Preset::Pictures64.name()
            && settings.model.patch == small
        {
            Preset::Pictures32.name().clone_into(&mut settings.preset);
        }
        settings.model.check()?;
        settings.dataset = Some(found.dataset.name().to_owned());
        let images = Images::new(&found, &settings, device.clone());
        images.check(&settings)?;
        let parameters = Parameters::seeded(settings.train.seed);
        let threads = threads_on(&device, ranks.threads(threads));
        let on = (&device, threads, ranks.collective());
        let trainer = trainer(&settings, &parameters, on)?;
        let info = found.info(&settings.model, &settings.data);
        Ok(Self { settings, found, info, images, parameters, trainer, device, threads })
    }

    /// Gives the parameters the values of the model that they are to begin as, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is of another model.
    pub(crate) fn initialise(&self) -> Result<()> {
        init::initialise(&self.settings, &self.info, &self.parameters)
    }

    /// Goes on from a state that rank 0 has, or begins where it has none.
    ///
    /// # Errors
    /// If it is of another model, or ranks have other data.
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
    /// If not: what differs is named.
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

    /// Computes what the head reads of every image, once for all epochs, where the head alone is trained and images are not
    /// augmented.
    ///
    /// # Errors
    /// If the device has no room, or an image cannot be read.
    pub(crate) fn cache_features(&mut self) -> Result<()> {
        let settings = &self.settings;
        if settings.finetune.freeze != Freeze::All {
            return Ok(());
        }
        if settings.augments() {
            tracing::info!(
                "augmented images pass the frozen layers in every epoch; without augmentation, such as with \
                 --augment-crop-scale 0 --augment-flip 0, they pass once"
            );
            return Ok(());
        }
        let values = self.parameters.sorted().into_iter();
        let values = values.map(|(name, var)| (name, var.as_detached_tensor())).collect();
        let vb = VarBuilder::from_tensors(values, DType::F32, &self.device);
        self.images.cache_features(&VisionTransformer::new(&settings.model, &vb)?)
    }
}

/// A model's parameters of rank 2 or more that weight decay leaves alone where it acts on matrices: they are no weights of a
/// product.
const NO_DECAY: [&str; 3] = ["cls_token", "pos_embed", "reg_token"];

/// The layer of a parameter, from the bottom: 0 for the embedding, one for each block, the last one's with the norm behind it,
/// and one for the head.
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

/// How a parameter is trained: not at all, or at a rate that falls with its depth.
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

/// A trainer of a new model, whose variables are made in `parameters`.
///
/// # Errors
/// If the settings are out of range, or the threads cannot be started.
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
    #[expect(unsafe_code, reason = "what this model reads is known here")]
    // SAFETY: a Vision Transformer computes the same operations each time, of its images, its parameters and constants that
    // its layers hold and never replace; the losses hold no tensor. The trainer's thread alone uses the device until the run
    // has ended: what saves and draws meanwhile works on copies on the CPU.
    let trainer = unsafe { trainer.record_steps() };
    Ok(trainer.build(&parameters.builder(DType::F32, device), |vb| {
        let model = VisionTransformer::new(model, &vb)?;
        // Of images, or of the features that a frozen trunk has made of them once; dropout is none of a frozen trunk's.
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

    /// As timm's `param_groups_layer_decay` gives for a ViT of two blocks.
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
