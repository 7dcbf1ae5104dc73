//! How pictures are made like the images that a model was trained on, as the command line says it.

use clap::ValueEnum;

/// How pictures are made like the images that a model was trained on.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Whether to make dark light and light dark; auto does it to dark strokes on a light background, for a model of digits,
    /// and warns where it has to guess
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) invert: Invert,
    /// How a picture is brought to the model's size, also if it has that size [default: as the model's file says: mnist for
    /// digits, crop for pictures, else stretch; a picture of the model's size is taken as it is]
    #[arg(long, value_name = "HOW")]
    pub(crate) fit: Option<Fit>,
}

pub(crate) const HELP: &str = "\
A model of digits is a run on mnist or digits, or a file of a model of grey images: it knows light strokes on a dark \
background. `--fit mnist` takes the strokes out of their background, leaves out frames, rules and specks, and places them as \
MNIST's are: in their own proportions, the longest side 20 of 28 pixels, the centre of mass in the middle. `--fit crop` scales \
the shorter side and cuts out the middle, `--fit pad` keeps the picture's proportions, `--fit stretch` does not.";

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Invert {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fit {
    Mnist,
    Crop,
    Pad,
    Stretch,
}
