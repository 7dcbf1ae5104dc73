#![doc = include_str!("../README.md")]

mod error;
mod graph;
mod proto;
mod read;
mod vision_transformer;

use std::fmt;

use candle_core::DType;
use prost::Message;
use vit_model::{Layout, ModelInfo, Tensors, VitConfig};

pub use error::Error;
pub use read::{Description, describe};

/// Operator set: the first one with `LayerNormalization`.
const OPSET: i64 = 17;
/// File format version of that operator set.
const IR_VERSION: i64 = 8;
/// Metadata key of the configuration, class names and transform, as JSON; the same as in safetensors files.
const CONFIG_KEY: &str = "vit_config";
/// The longest protocol buffer message.
const MOST_BYTES: u64 = i32::MAX as u64;

/// Input type of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// Normalised `f32`, like the model's own input.
    #[default]
    Float,
    /// `u8` pixels; the graph normalises them with the transform's mean and deviation.
    Bytes,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Bytes => "bytes",
        })
    }
}

/// Checks that a model fits into an ONNX file, before its parameters are read.
///
/// # Errors
/// If the configuration is invalid, or the parameters exceed the limit of protocol buffers.
pub fn check(config: &VitConfig) -> Result<(), Error> {
    let shapes = Layout::Timm.parameters(config)?;
    let sizes = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64);
    check_size(sizes.sum::<u64>() * size_of::<f32>() as u64)
}

fn check_size(bytes: u64) -> Result<(), Error> {
    if bytes > MOST_BYTES {
        return Err(Error::TooLarge { bytes, limit: MOST_BYTES });
    }
    Ok(())
}

/// The ONNX file of a model from its parameters by native name; other dtypes are converted to `f32`. The same model
/// gives the same bytes.
///
/// # Errors
/// Same as [`check`], and if the parameters do not match the configuration.
pub fn to_bytes(
    parameters: &Tensors,
    config: &VitConfig,
    info: &ModelInfo,
    input: Input,
) -> Result<Vec<u8>, Error> {
    check(config)?;
    let mut parameters = Layout::Timm.import(parameters, config)?;
    for tensor in parameters.values_mut() {
        *tensor = tensor.to_dtype(DType::F32)?;
    }
    let model = proto::Model {
        ir_version: IR_VERSION,
        producer_name: "vit".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(vision_transformer::graph(&parameters, config, info, input)?),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: vec![proto::Entry {
            key: CONFIG_KEY.to_owned(),
            value: info.to_json(config),
        }],
    };
    check_size(model.encoded_len() as u64)?;
    Ok(model.encode_to_vec())
}
