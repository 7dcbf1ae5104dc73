//! How pictures are made like the images that a model was trained on, as the command line says it.

use clap::ValueEnum;

/// How pictures are made like the images that a model was trained on.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Whether to make dark light and light dark; auto does it to dark strokes on a light ground, for a model of digits
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) invert: Invert,
    /// How a picture of another size is brought to the model's [default: as the model's file says: mnist for digits,
    /// crop for pictures; else stretch]
    #[arg(long, value_name = "HOW")]
    pub(crate) fit: Option<Fit>,
}

pub(crate) const HELP: &str = "\
A model of digits is a run on mnist or digits, or a file of a model of grey images: it knows light strokes on a dark \
ground. `--fit mnist` takes the strokes \
out of their background and places them as MNIST's are: in their own proportions, the longest side 20 of 28 pixels, the \
centre of mass in the middle. `--fit crop` scales the shorter side and cuts out the middle, `--fit pad` keeps the picture's proportions, `--fit stretch` does not. A picture of the \
model's own size is taken as it is, but for --invert.";

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
