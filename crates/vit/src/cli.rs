//! The command line.

pub(crate) mod augmentation;
pub(crate) mod bench;
mod foreign;
pub(crate) mod path;
pub(crate) mod recipe;
mod usage;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use vit_model::Layout;

use crate::device::Device;
use crate::outputs::Existing;
pub(crate) use foreign::Import;
use foreign::Untold;
use path::{path, path_or_name};
pub(crate) use usage::parse;

/// A shallow Vision Transformer: trained, inspected and used
#[derive(Debug, Parser)]
#[command(name = "vit", bin_name = "vit", version, max_term_width = 80, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 internal error, 2 usage or configuration, 3 data, \
4 model file or disk, 5 training diverged, 6 device, 130 interrupted.";

/// What goes to stderr.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Log only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log more; twice for all, libraries too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How log lines are written
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(Box<Train>),
    #[command(about = CONFIG, after_help = CONFIGURED)]
    Config(Box<Train>),
    Eval(Eval),
    Predict(Predict),
    Explain(Explain),
    Info(Info),
    Compare(Compare),
    Verify(Verify),
    Export(Export),
    Import(Import),
    Fetch(Fetch),
    #[command(subcommand)]
    Bench(bench::Bench),
    Completions(Completions),
    Man(Man),
}

const CONFIG: &str =
    "Prints the settings that `vit train` would take with the same flags, and touches no data";

const CONFIGURED: &str = "\
The output is a file for `vit train --config`. Flags that set no numbers, such as --threads and --run-dir, are not in it.";

const TRAINED_ON: &str = "\
Without --dataset, MNIST is used if it is there or can be fetched, else the digits that are built in.";

/// The flags that a run which is taken up again has from its folder.
const SETTINGS: [&str; 30] = [
    "preset",
    "config",
    "schedule",
    "warmup",
    "min_lr",
    "weight_decay",
    "clip",
    "accumulate",
    "label_smoothing",
    "ema",
    "val_split",
    "patience",
    "augment_shift",
    "augment_rotation",
    "augment_scale",
    "augment_shear",
    "augment_elastic",
    "augment_erase",
    "augment_mixup",
    "dataset",
    "epochs",
    "max_steps",
    "batch_size",
    "lr",
    "dropout",
    "seed",
    "init",
    "no_shuffle",
    "log_every",
    "run_dir",
];

/// Trains a model and leaves a run folder behind
#[derive(Debug, Args)]
#[command(after_help = TRAINED_ON)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Passes over the training images [default: 20]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) epochs: Option<u64>,
    /// End after this many steps
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) max_steps: Option<u64>,
    /// Images in a step [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Learning rate [default: 0.0003]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// Dropout of attention weights, projections and feed-forwards [default: the preset's, of shallow 0.2]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub(crate) dropout: Option<f64>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) seed: Option<u64>,
    /// Threads; the result does not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Where to compute: cpu, cuda or cuda:N; auto is a GPU that this program can use, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// Begin with the parameters of this file: of any layout that `vit export` writes
    #[arg(long, value_name = "FILE.safetensors", value_parser = path())]
    pub(crate) init: Option<PathBuf>,
    /// Take the training images in the order of their file
    #[arg(long)]
    pub(crate) no_shuffle: bool,
    /// Record the mean loss of every N steps [default: 100]
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) log_every: Option<u64>,
    /// Save a checkpoint every N steps, or every N seconds as `30s` [default: after each epoch]
    #[arg(long, value_name = "N|Ns")]
    pub(crate) save_every: Option<SaveEvery>,
    /// Keep so many checkpoints, the newest
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) keep: u16,
    /// Go on with the run in this folder, from its newest checkpoint and with its settings
    #[arg(long, value_name = "RUN", conflicts_with_all = SETTINGS, value_parser = path())]
    pub(crate) resume: Option<PathBuf>,
    /// The folder to leave behind, which must not exist [default: runs/DATASET-PRESET-N]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(crate) run_dir: Option<PathBuf>,
    /// Write the metrics as a TensorBoard event file too, into `tensorboard` in the run folder
    #[arg(long)]
    pub(crate) tensorboard: bool,
    /// Trace the first 50 steps and the evaluation after them into this file, for Perfetto or Chrome's tracing
    #[arg(long, value_name = "FILE.json", value_parser = path())]
    pub(crate) trace: Option<PathBuf>,
    /// Replace the file of --trace if it exists
    #[arg(long, requires = "trace")]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) recipe: recipe::Recipe,
    #[command(flatten)]
    pub(crate) augmentation: augmentation::Augmentation,
}

const MEASURED_ON: &str = "\
Without --dataset, the one that the run was trained on is used; for a file, MNIST.";

/// Measures a model on a dataset's test images
#[derive(Debug, Args)]
#[command(after_help = MEASURED_ON)]
pub(crate) struct Eval {
    /// A run folder, or a safetensors file that carries its configuration
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Where to compute: cpu, cuda or cuda:N; auto is a GPU that this program can use, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Any that a configuration file can hold, which has no larger ones.
fn whole_number() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=i64::MAX as u64)
}

/// Classifies pictures, or a dataset's images: a line of JSON each
#[derive(Debug, Args)]
#[command(
    after_help = PICTURES,
    group = ArgGroup::new("inverted").arg("invert").conflicts_with("dataset"),
    group = ArgGroup::new("fitted").arg("fit").conflicts_with("dataset"),
)]
pub(crate) struct Predict {
    /// A run folder, or a safetensors file that carries its configuration
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// PNG or JPEG files, folders of them, or - for stdin, unless --dataset is given
    #[arg(value_name = "IMAGE", required_unless_present = "dataset", conflicts_with = "dataset", value_parser = path())]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) pictures: Pictures,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Which images of the dataset
    #[arg(long, requires = "dataset", default_value = "test")]
    pub(crate) split: Split,
    /// Add the K most probable classes, the first first
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) top_k: Option<u16>,
    /// Where to compute: cpu, cuda or cuda:N; auto is a GPU that this program can use, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
}

/// How pictures are made like the images that a model was trained on.
#[derive(Debug, Args)]
pub(crate) struct Pictures {
    /// Whether to make dark light and light dark; auto does it to dark strokes on a light ground, for a model of digits
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) invert: Invert,
    /// How a picture of another size is brought to the model's [default: mnist for a model of digits, else stretch]
    #[arg(long, value_name = "HOW")]
    pub(crate) fit: Option<Fit>,
}

const PICTURES: &str = "\
A model of digits is a run on mnist or digits, or a file of a model of grey images: it knows light strokes on a dark \
ground. `--fit mnist` takes the strokes \
out of their background and places them as MNIST's are: in their own proportions, the longest side 20 of 28 pixels, the \
centre of mass in the middle. `--fit pad` keeps the picture's proportions, `--fit stretch` does not. A picture of the \
model's own size is taken as it is, but for --invert.";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Invert {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fit {
    Mnist,
    Pad,
    Stretch,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Split {
    Train,
    Test,
}

/// Draws what a model makes of a picture: the probabilities, and what they rest on
#[derive(Debug, Args)]
#[command(after_help = EXPLAINED)]
pub(crate) struct Explain {
    /// A run folder, or a safetensors file that carries its configuration
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// A PNG or JPEG file, or - for stdin
    #[arg(value_parser = path())]
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) pictures: Pictures,
    /// The PNG file to write
    #[arg(short, long, value_name = "PNG", value_parser = path())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) force: Force,
    /// Where to compute: cpu, cuda or cuda:N; auto is a GPU that this program can use, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
}

const EXPLAINED: &str = "\
The picture shows the image as the model sees it, how much of each patch reaches the token that the head reads \
(attention rollout), and the probabilities of the classes.";

/// Shows a model: its configuration, the parameters and the multiply-adds of each part
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// A run folder, a safetensors file of any layout, or a folder that timm or transformers saved
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) untold: Untold,
}

/// Compares runs: how each ended, and which settings differ
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Run folders
    #[arg(value_name = "RUN", required = true, value_parser = path())]
    pub(crate) runs: Vec<PathBuf>,
    /// An HTML page to write, with the curves over one another
    #[arg(short, long, value_name = "HTML", value_parser = path())]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) force: Force,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Writes a model's parameters under the names of another library
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A run folder, or a safetensors file that carries its configuration
    #[arg(value_parser = path())]
    pub(crate) model: PathBuf,
    /// Whose names: timm's, Hugging Face transformers' or the seed's notebook's
    #[arg(long)]
    pub(crate) layout: LayoutName,
    /// The safetensors file to write; for hf, the folder
    #[arg(short, long, value_name = "PATH", value_parser = path())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) force: Force,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LayoutName {
    Timm,
    Hf,
    Notebook,
}

impl From<LayoutName> for Layout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::Timm => Self::Timm,
            LayoutName::Hf => Self::Hf,
            LayoutName::Notebook => Self::Notebook,
        }
    }
}

/// Downloads a dataset where it is missing, and verifies it
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// mnist or fashion-mnist
    pub(crate) dataset: String,
    #[command(flatten)]
    pub(crate) place: DataPlace,
}

/// Checks a run folder, and whether its first steps give the same parameters again
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A run folder
    #[arg(value_parser = path())]
    pub(crate) run: PathBuf,
    /// Check the files alone, and train nothing
    #[arg(long)]
    pub(crate) files_only: bool,
    #[command(flatten)]
    pub(crate) place: DataPlace,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Where to compute: cpu, cuda or cuda:N; auto is a GPU that this program can use, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints a script that completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = COMPLETED)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

const COMPLETED: &str = "\
For bash: vit completions bash > ~/.local/share/bash-completion/completions/vit";

/// Writes the man pages, one for each command
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder to write them into, such as ~/.local/share/man/man1
    #[arg(short, long, value_name = "DIR", value_parser = path())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) force: Force,
}

impl Train {
    /// Whether --trace may replace a file.
    pub(crate) const fn existing(&self) -> Existing {
        Existing::of_flag(self.force)
    }
}

/// Whether an output may replace a file.
#[derive(Debug, Args)]
pub(crate) struct Force {
    /// Replace the output if it exists; a file that the command reads, or one of a run, is never replaced
    #[arg(long, requires = "output")]
    force: bool,
}

impl Force {
    pub(crate) const fn existing(&self) -> Existing {
        Existing::of_flag(self.force)
    }
}

/// Which settings to begin with.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// The model: notebook (the seed's code, every quirk of it), shallow, or one of the papers': vit-ti16, vit-s16,
    /// vit-b16, vit-b32 or vit-l16 [default: shallow]
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Settings from a TOML file, such as a run's config.toml; flags override them
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) config: Option<PathBuf>,
}

/// Which dataset, and where it lies.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// mnist, fashion-mnist, digits, or a folder of the four IDX files
    #[arg(long, value_name = "NAME|DIR", value_parser = path_or_name())]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) place: DataPlace,
}

/// Where named datasets lie, and where they come from.
#[derive(Debug, Args)]
pub(crate) struct DataPlace {
    /// The folder that holds a folder for each named dataset [default: VIT_DATA, else the cache folder]
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(crate) data_dir: Option<PathBuf>,
    /// The address of a folder of the dataset's .gz files, asked first [default: VIT_MIRROR]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
}

/// How often the model is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SaveEvery {
    Steps(u64),
    Seconds(u64),
}

impl std::str::FromStr for SaveEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, kind): (_, fn(u64) -> Self) = match text.strip_suffix('s') {
            Some(seconds) => (seconds, Self::Seconds),
            None => (text, Self::Steps),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(kind(number)),
            _ => {
                Err("expected a number of steps such as 500, or of seconds such as 30s".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// What a new flag is to be beside `--resume` has to be decided.
    #[test]
    fn a_flag_is_a_setting_or_goes_with_resume() {
        use clap::CommandFactory;
        let with_resume = [
            "data_dir",
            "mirror",
            "threads",
            "device",
            "save_every",
            "keep",
            "resume",
            "tensorboard",
            "trace",
            "force",
            "json",
        ];
        let command = Cli::command();
        let train = command.find_subcommand("train").expect("it is there");
        for flag in train.get_arguments().map(|flag| flag.get_id().as_str()) {
            let decided = [SETTINGS.contains(&flag), with_resume.contains(&flag)];
            assert!(decided[0] != decided[1], "{flag}");
        }
    }

    #[test]
    fn saving_is_by_steps_or_seconds() {
        assert_eq!("20".parse(), Ok(SaveEvery::Steps(20)));
        assert_eq!("30s".parse(), Ok(SaveEvery::Seconds(30)));
        for wrong in ["", "0", "s", "-1", "1m", "0s"] {
            assert!(wrong.parse::<SaveEvery>().is_err(), "{wrong}");
        }
    }
}
