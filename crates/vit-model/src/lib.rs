#![doc = include_str!("../README.md")]

mod config;
mod error;
mod file;
mod layout;
mod model;
mod preset;
mod resize;
mod summary;

pub use config::{DropoutConfig, Output, Pool, VitConfig};
pub use error::Error;
pub use file::{ModelFile, read, write};
pub use layout::{Layout, Tensors};
pub use model::VisionTransformer;
pub use preset::Preset;
pub use resize::resize;
pub use summary::{Part, Summary};
