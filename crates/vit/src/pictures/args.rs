//! The flags that control how pictures become model inputs.

use clap::ValueEnum;

/// Preprocessing of pictures.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Exchange dark and light; auto does so for dark strokes on a light background if the model reads digits, and
    /// warns if it has to guess
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) invert: Invert,
    /// How a picture gets the model's size [default: by the model's file; else mnist for digits, crop for pictures,
    /// stretch otherwise, and none if it has that size]
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
