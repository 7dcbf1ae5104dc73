//! Errors of ONNX files.

/// Why an ONNX file cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The parameters do not fit into one file.
    #[error(
        "an ONNX file holds at most {limit} bytes, the limit of protocol buffers; this model needs {bytes}"
    )]
    TooLarge {
        /// Size of the parameters, or of the whole file.
        bytes: u64,
        /// Limit of protocol buffers.
        limit: u64,
    },
    /// The transform does not match the model's images.
    #[error(
        "expected a mean and a deviation for each of {channels} channels or one for all, got {mean} and {std}"
    )]
    Transform {
        /// Channels of the model's images.
        channels: usize,
        /// Number of means in the transform.
        mean: usize,
        /// Number of deviations in the transform.
        std: usize,
    },
    /// The parameters do not match the configuration.
    #[error(transparent)]
    Model(#[from] vit_model::Error),
    /// The parameters cannot be copied from their device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The file is not ONNX, or is truncated or damaged.
    #[error("not an ONNX file: {what}")]
    NotOnnx {
        /// The problem.
        what: &'static str,
    },
    /// The ONNX file has no configuration of this project.
    #[error(
        "expected an ONNX file written by `vit export`, which contains the configuration, got one written by {producer:?}"
    )]
    Foreign {
        /// The program that wrote the file, by its own metadata.
        producer: String,
    },
    /// The configuration is malformed.
    #[error("cannot parse the configuration in the ONNX file")]
    Config(#[from] serde_json::Error),
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
}
