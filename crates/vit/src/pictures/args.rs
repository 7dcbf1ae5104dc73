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
Models trained on mnist or digits, and files of grey models without preprocessing, expect light strokes on a dark \
background. `--fit mnist` extracts the strokes, drops frames, ruled lines and specks, scales the longest side to 20 of 28 \
pixels, and centres the mass. `--fit crop` scales \
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
