#![doc = include_str!("../README.md")]

mod config;
mod embedding;
mod error;
mod patchify;
mod position;

pub use config::{ImageSize, PatchConfig, PatchSize};
pub use embedding::{ClassToken, PatchEmbedding};
pub use error::ConfigError;
pub use patchify::{patchify, unpatchify};
pub use position::Position;
