//! What can go wrong with an ONNX file.

/// Why there is no ONNX file, or nothing known of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model whose parameters do not fit into one file.
    #[error(
        "an ONNX file holds at most {limit} bytes, the limit of protocol buffers; this model needs {bytes}"
    )]
    TooLarge {
        /// What the parameters take, or all of the file.
        bytes: u64,
        /// The most that protocol buffers can hold.
        limit: u64,
    },
    /// A transform that does not fit the model's images.
    #[error(
        "expected a mean and a deviation for each of {channels} channels or one for all, got {mean} and {std}"
    )]
    Transform {
        /// Channels of the model's images.
        channels: usize,
        /// Means of the transform.
        mean: usize,
        /// Its deviations.
        std: usize,
    },
    /// The parameters do not match the configuration.
    #[error(transparent)]
    Model(#[from] vit_model::Error),
    /// Parameters that cannot be read from their device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file that is not ONNX, or is cut or changed.
    #[error("not an ONNX file: {what}")]
    NotOnnx {
        /// What is wrong with it.
        what: &'static str,
    },
    /// An ONNX file without a configuration of ours.
    #[error(
        "the graph carries no configuration: expected a file of `vit export`, got one of {producer:?}"
    )]
    Foreign {
        /// The program that the file says it is of.
        producer: String,
    },
    /// A configuration that cannot be understood.
    #[error("the graph carries a configuration that cannot be read")]
    Config(#[from] serde_json::Error),
    /// A file that cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
}
