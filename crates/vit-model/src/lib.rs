#![doc = include_str!("../README.md")]

mod config;
mod error;
mod file;
mod finetune;
mod foreign;
mod grey;
mod info;
mod layout;
mod map;
mod model;
mod other_format;
mod preset;
mod resize;
mod summary;

pub use config::{DropoutConfig, Output, Pool, VitConfig};
pub use error::Error;
pub use file::{
    ModelFile, TensorInfo, TensorInfos, to_bytes, to_bytes_with, to_hf_bytes, write, write_with,
};
pub use finetune::{check_fine_tunable, for_fine_tuning};
pub use foreign::{
    Documents, Foreign, Known, Normalization, hf_config_json, hf_config_json_of_grey,
    hf_preprocessor_json, timm_config_json,
};
pub use grey::grey_as_colour;
pub use info::{Fit, Interpolation, ModelInfo, Transform};
pub use layout::{Layout, Tensors};
pub use model::VisionTransformer;
pub use other_format::OtherFormat;
pub use preset::Preset;
pub use resize::resize;
pub use summary::{Part, Summary};
