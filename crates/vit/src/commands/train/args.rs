//! The arguments of `vit train`, and the settings they give.

use std::path::PathBuf;

use super::augmentation::Augmentation;
use super::finetuning::Finetuning;
use super::init;
use super::pictures::PicturesArgs;
use super::recipe::Recipe;
use super::saver::SaveEvery;
use crate::args::{path, whole_number};
use crate::commands::serve::{Access, Listen, TOKEN};
use crate::dataset::DataArgs;
use crate::device::Device;
use crate::failure::Result;
use crate::outputs::Existing;
use crate::settings::{Asked, Settings, SettingsArgs};

/// Flags that are allowed with --resume: those that do not affect the result, and settings that may change during a
/// run. All other settings come from the run directory.
const WITH_RESUME: [&str; 32] = [
    "data_dir",
    "mirror",
    "threads",
    "device",
    "save_every",
    "keep",
    "resume",
    "tensorboard",
    "serve",
    "token",
    "trace",
    "force",
    "json",
    "epochs",
    "max_steps",
    "lr",
    "schedule",
    "warmup",
    "min_lr",
    "patience",
    "augment_shift",
    "augment_rotation",
    "augment_scale",
    "augment_shear",
    "augment_elastic",
    "augment_erase",
    "augment_mixup",
    "augment_cutmix",
    "augment_crop_scale",
    "augment_flip",
    "augment_jitter",
    "augment_policy",
];

/// Makes every other setting conflict with --resume.
pub(crate) fn without_settings_beside_resume(train: clap::Command) -> clap::Command {
    let settings: Vec<clap::Id> = train
        .get_arguments()
        .map(|flag| flag.get_id().clone())
        .filter(|id| !WITH_RESUME.contains(&id.as_str()))
        .collect();
    let train = train.mut_arg("resume", |resume| resume.conflicts_with_all(settings));
    // One in the environment may be there for other servers.
    if std::env::var_os(TOKEN).is_some() {
        return train;
    }
    train.mut_arg("token", |token| token.requires("serve"))
}

const TRAINED_ON: &str = "\
Without --dataset, it trains on MNIST if that is present or can be downloaded, else on built-in digits.";

/// Trains a model and writes a run directory
#[derive(Debug, clap::Args)]
#[command(after_help = TRAINED_ON)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Passes over the training images, at least 1 [default: 20; for pictures 60]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) epochs: Option<u64>,
    /// Stop after this many steps, at least 1 [default: no limit]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) max_steps: Option<u64>,
    /// Batch size, at least 1 [default: 64; for pictures 32]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Learning rate, at least 0 [default: 0.0003; for pictures 0.001]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// Dropout on attention weights, projections and feed-forwards, in [0, 1) [default: the preset's; shallow: 0.2]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) dropout: Option<f64>,
    /// Seed of all random numbers, at least 0 [default: 0]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) seed: Option<u64>,
    /// Threads, 1 to 1024; does not affect the result [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Device: cpu, cuda or cuda:N; auto is a usable GPU, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// Do not shuffle the training images
    #[arg(long)]
    pub(crate) no_shuffle: bool,
    /// Record the mean loss every N steps, at least 1 [default: 100]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) log_every: Option<u64>,
    /// Save a checkpoint every N steps, or every N seconds as `30s`, at least 1 [default: after each epoch]
    #[arg(long, value_name = "N|Ns")]
    pub(crate) save_every: Option<SaveEvery>,
    /// Number of checkpoints to keep, at least 1
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) keep: u16,
    /// Resume the run in this directory from its newest checkpoint. --epochs, --max-steps, --patience, --lr, schedule
    /// and augmentation may change the run; flags that do not affect the result may change too
    #[arg(long, value_name = "RUN", value_parser = path())]
    pub(crate) resume: Option<PathBuf>,
    /// Run directory to create [default: runs/DATASET-PRESET-N]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(crate) run_dir: Option<PathBuf>,
    /// Also write the metrics as TensorBoard events, to `tensorboard` in the run directory
    #[arg(long)]
    pub(crate) tensorboard: bool,
    /// Show the run in a browser while it trains: curves, and predictions for drawings. ADDR is ADDRESS:PORT or a port
    /// of 127.0.0.1 [default: 127.0.0.1 and a free port]
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:0")]
    pub(crate) serve: Option<Listen>,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Write a trace of the first 50 steps and the next evaluation to this file, for Perfetto or Chrome's tracing
    #[arg(long, value_name = "FILE.json", value_parser = path())]
    pub(crate) trace: Option<PathBuf>,
    /// Overwrite an existing --trace file
    #[arg(long, requires = "trace")]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) pictures: PicturesArgs,
    #[command(flatten)]
    pub(crate) finetuning: Finetuning,
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    #[command(flatten)]
    pub(crate) augmentation: Augmentation,
}

impl Args {
    /// The checked settings from configuration file and flags.
    ///
    /// # Errors
    /// If the file cannot be read or has an unknown key, or a setting is out of range.
    pub(crate) fn resolve(&self) -> Result<(Settings, Asked)> {
        let (mut settings, asked) =
            Settings::begin_explicitly(&self.settings, self.data.dataset.as_deref())?;
        self.finetuning.override_settings(&mut settings.finetune);
        init::take_model(&mut settings, asked.model)?;
        let asked = self.pictures.override_settings(&mut settings, asked);
        if let Some(batch_size) = self.batch_size {
            settings.set_batch_size(batch_size, asked);
        }
        let is_begun = settings.finetune.init.is_some();
        let asked = if is_begun { asked.with_another_model() } else { asked };
        self.override_settings(&mut settings);
        settings.check()?;
        Ok((settings, asked))
    }

    /// The settings of a run resumed after `steps` steps.
    ///
    /// # Errors
    /// If the run cannot continue with these flags.
    pub(crate) fn resume(&self, settings: &Settings, steps: u64) -> Result<Settings> {
        let mut new = settings.after(steps);
        self.override_settings(&mut new);
        settings.changed(steps, &new)
    }

    fn override_settings(&self, settings: &mut Settings) {
        fn set<T: Clone>(field: &mut T, flag: Option<&T>) {
            if let Some(flag) = flag {
                field.clone_from(flag);
            }
        }
        set(&mut settings.train.epochs, self.epochs.as_ref());
        set(&mut settings.train.optimizer.lr, self.lr.as_ref());
        set(&mut settings.train.seed, self.seed.as_ref());
        set(&mut settings.train.log_every, self.log_every.as_ref());
        self.recipe.override_settings(settings);
        self.augmentation.override_augment(&mut settings.augment);
        settings.train.max_steps = self.max_steps.or(settings.train.max_steps);
        settings.dataset = self.data.dataset.clone().or_else(|| settings.dataset.take());
        settings.shuffle &= !self.no_shuffle;
        if let Some(rate) = self.dropout {
            settings.model = settings.model.clone().with_dropout(rate);
        }
    }

    /// Whether --trace may overwrite a file.
    pub(crate) const fn existing(&self) -> Existing {
        Existing::of_flag(self.force)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use vit_data::Augment;
    use vit_model::Preset;
    use vit_train::{Decay, OptimizerKind, ScheduleKind};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        train: Args,
    }

    fn train(args: &str) -> Args {
        Program::parse_from(["train"].into_iter().chain(args.split_whitespace())).train
    }

    #[test]
    fn flags_override_the_file_and_the_file_overrides_the_preset() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "preset = 'notebook'\n[train]\nepochs = 3\nseed = 5\n[train.optimizer]\nlr = 1\n[model]\ndepth = 2\n")
            .expect("a writable folder");
        let args = train(&format!("--config {} --epochs 7 --dropout 0", path.display()));
        let settings = args.resolve().expect("sound settings").0;
        assert_eq!(settings.preset, "notebook");
        assert_eq!((settings.train.epochs, settings.train.seed), (7, 5));
        assert_eq!(settings.train.optimizer.lr, 1.0);
        assert_eq!((settings.model.depth, settings.model.dropout.mlp), (2, 0.0));
        assert_eq!(settings.model.output, Preset::Notebook.config().output);
    }

    #[test]
    fn a_runs_own_file_repeats_its_settings() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = train("--preset notebook --lr 0.01 --no-shuffle --max-steps 3").resolve();
        let first = first.expect("sound settings").0;
        let path = folder.path().join("config.toml");
        std::fs::write(&path, first.to_toml()).expect("a writable folder");
        let again = train(&format!("--config {}", path.display())).resolve();
        assert_eq!(again.expect("sound settings").0, first);
        assert_eq!(Settings::of_run(folder.path()).expect("sound settings"), first);
    }

    #[test]
    fn augmentation_flags_override_the_file_one_by_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[augment]\nshift = 2\nshear = 3.0\n").expect("a writable folder");
        let words = "--augment-shift 1 --augment-rotation 10 --augment-scale 0.1 --augment-elastic 0.5 \
                     --augment-erase 0.2 --augment-mixup 0.3 --augment-cutmix 1 --augment-crop-scale 0.35 --augment-flip 0.5 \
                     --augment-jitter 0.2 --augment-policy trivial";
        let args = train(&format!("--config {} {words}", path.display()));
        let settings = args.resolve().expect("sound settings").0;
        let want = Augment {
            shift: 1.0,
            rotation: 10.0,
            scale: 0.1,
            shear: 3.0,
            elastic: 0.5,
            erase: 0.2,
            mixup: 0.3,
            cutmix: 1.0,
            crop_scale: 0.35,
            flip: 0.5,
            jitter: 0.2,
            policy: vit_data::Policy::Trivial,
        };
        assert_eq!(settings.augment, want);
        let again: Settings = toml::from_str(&settings.to_toml()).expect("as written");
        assert_eq!(again, settings);
    }

    #[test]
    fn recipe_flags_are_in_the_file_that_repeats_the_run() {
        let words = "--schedule one-cycle --warmup 30 --min-lr 0.00001 --weight-decay 0.05 --clip 1 \
                     --accumulate 2 --label-smoothing 0.1 --ema 0.99";
        let settings = train(words).resolve().expect("sound settings").0;
        let train = &settings.train;
        assert_eq!(
            (train.schedule.kind, train.schedule.warmup),
            (ScheduleKind::OneCycle, Some(30))
        );
        assert_eq!(
            (train.optimizer.kind, train.optimizer.decay),
            (OptimizerKind::AdamW, Decay::Matrices)
        );
        assert_eq!((train.clip, train.accumulate, train.ema), (Some(1.0), 2, Some(0.99)));
        let again: Settings = toml::from_str(&settings.to_toml()).expect("as written");
        assert_eq!(again, settings);
    }
}
