//! Errors of configurations, layouts and files.

use std::path::PathBuf;

use crate::Layout;

/// Why a model cannot be built, read or written. Each variant names the thing, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The encoder cannot be built.
    #[error(transparent)]
    Encoder(#[from] vit_layers::ConfigError),
    /// The patch embedding cannot be built.
    #[error(transparent)]
    Patch(#[from] vit_patch::ConfigError),
    /// A number of classes out of range.
    #[error("expected between 1 and 65536 classes, got {classes}")]
    Classes {
        /// The number of classes.
        classes: usize,
    },
    /// A model with too many parameters.
    #[error("expected a model of at most {limit} parameters, got {parameters}")]
    TooLarge {
        /// The parameters of the configuration.
        parameters: u128,
        /// The largest allowed.
        limit: u128,
    },
    /// Images that are too large.
    #[error(
        "expected images of at most {limit} numbers (height x width x channels), got {numbers}"
    )]
    ImageTooLarge {
        /// The numbers of an image.
        numbers: u128,
        /// The largest allowed.
        limit: u128,
    },
    /// Too many tokens: attention needs memory by their square.
    #[error("expected at most {limit} tokens of an image, got {tokens}: larger patches make fewer")]
    TooManyTokens {
        /// Tokens of an image.
        tokens: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// No preset of this name.
    #[error("no preset is called {name:?}, expected one of {}", crate::Preset::names())]
    UnknownPreset {
        /// The requested name.
        name: String,
    },
    /// A model that a layout cannot express.
    #[error("the {layout} layout cannot express {field} = {value}, expected {expected}")]
    Inexpressible {
        /// The requested layout.
        layout: Layout,
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        value: String,
        /// Requirement of the layout.
        expected: &'static str,
    },
    /// A foreign model that this crate does not compute.
    #[error("unsupported {field} = {value} in the {layout} layout, expected {expected}")]
    Unsupported {
        /// Its layout.
        layout: Layout,
        /// The setting, by its library's name.
        field: String,
        /// Its value.
        value: String,
        /// The supported values.
        expected: &'static str,
    },
    /// A setting of a foreign model that neither its files nor its shapes determine.
    #[error("cannot determine {field}: {reason}")]
    Undetermined {
        /// The field of the configuration.
        field: &'static str,
        /// Why not.
        reason: String,
    },
    /// A foreign model's JSON that cannot be parsed.
    #[error("cannot parse {document}")]
    Document {
        /// The file's name.
        document: &'static str,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// Two models that differ in more than the size of their images.
    #[error("only the image size may change, expected {field} = {expected}, got {got}")]
    NotAResize {
        /// The first field of the configuration that differs.
        field: String,
        /// The value in the parameters' model.
        expected: String,
        /// The value in the other model.
        got: String,
    },
    /// Tensors that do not match the configuration.
    #[error("{layout} parameters do not fit the configuration:\n  {}", problems.join("\n  "))]
    Parameters {
        /// The expected layout.
        layout: Layout,
        /// One line per missing, unexpected or misshapen parameter.
        problems: Vec<String>,
    },
    /// Names that belong to no layout.
    #[error("the parameter names are of no known layout (timm, hf or notebook), got {example:?}")]
    UnknownLayout {
        /// One of the names, empty if there are none.
        example: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that is not a safetensors file.
    #[error("{} is not a safetensors file", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The header's error.
        source: std::io::Error,
    },
    /// A file of another format.
    #[error("{} is {format}, expected a safetensors file", path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: crate::OtherFormat,
    },
    /// A tensor that cannot be used, such as one of a dtype that candle lacks.
    #[error("{}: cannot use the tensor {name:?}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// candle's error.
        source: Box<candle_core::Error>,
    },
    /// A configuration in a file that cannot be parsed.
    #[error("cannot parse the configuration in {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// Parameters that a model cannot be fine-tuned from.
    #[error("cannot fine-tune a model with another {field}, expected {expected}, got {got}")]
    AnotherModel {
        /// The field of the configuration.
        field: String,
        /// The value in the parameters' model.
        expected: String,
        /// The value in the model to fine-tune.
        got: String,
    },
    /// A file that cannot be serialised.
    #[error("cannot serialise the parameters")]
    Serialise(#[source] safetensors::SafeTensorError),
    /// A file that cannot be written.
    #[error(transparent)]
    Write(#[from] vit_files::Error),
    /// A tensor operation that failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
