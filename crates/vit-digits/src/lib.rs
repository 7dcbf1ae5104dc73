#![doc = include_str!("../README.md")]

mod background;
mod mask;
mod placement;
mod strokes;

pub use background::Tone;
pub use placement::{as_mnist, padded, stretched};
pub use strokes::{Polarity, Strokes};
