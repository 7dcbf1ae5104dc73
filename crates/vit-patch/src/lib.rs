#![doc = include_str!("../README.md")]

mod config;
mod embedding;
mod error;
mod patchify;
mod position;
mod resample;
#[cfg(test)]
mod testing;

pub use config::{ImageSize, PatchConfig, PatchSize};
pub use embedding::{ClassToken, PatchEmbedding};
pub use error::ConfigError;
pub use patchify::{patchify, unpatchify};
pub use position::{Position, PositionRows, sincos2d};
pub use resample::{Resampling, resample_positions};
