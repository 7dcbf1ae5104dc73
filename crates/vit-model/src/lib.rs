#![doc = include_str!("../README.md")]

mod config;
mod error;
mod file;
mod layout;
mod model;
mod summary;

pub use config::{DropoutConfig, Output, Pool, Preset, VitConfig};
pub use error::Error;
pub use file::{ModelFile, read, write};
pub use layout::{Layout, Tensors};
pub use model::VisionTransformer;
pub use summary::{Part, Summary};
