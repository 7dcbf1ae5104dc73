//! What can go wrong with a configuration, a layout or a file.

use std::path::PathBuf;

use crate::Layout;

/// Why there is no model. Each variant names the thing, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The encoder cannot be built.
    #[error(transparent)]
    Encoder(#[from] vit_layers::ConfigError),
    /// The patch embedding cannot be built.
    #[error(transparent)]
    Patch(#[from] vit_patch::ConfigError),
    /// A number of classes that is no choice.
    #[error("expected between 1 and 65536 classes, got {classes}")]
    Classes {
        /// The number of classes.
        classes: usize,
    },
    /// A model larger than any that this crate is meant for.
    #[error("expected a model of at most {limit} parameters, got {parameters}")]
    TooLarge {
        /// The parameters of the configuration.
        parameters: u128,
        /// The most there may be.
        limit: u128,
    },
    /// Images larger than a model can look at.
    #[error(
        "expected images of at most {limit} numbers (height x width x channels), got {numbers}"
    )]
    ImageTooLarge {
        /// The numbers of an image.
        numbers: u128,
        /// The most there may be.
        limit: u128,
    },
    /// More tokens than can look at one another: attention takes memory by their square.
    #[error("expected at most {limit} tokens of an image, got {tokens}: larger patches make fewer")]
    TooManyTokens {
        /// Those of an image.
        tokens: usize,
        /// The most there may be.
        limit: usize,
    },
    /// No preset of this name.
    #[error("no preset is called {name:?}, expected one of {}", crate::Preset::names())]
    UnknownPreset {
        /// The name asked for.
        name: String,
    },
    /// A model that a layout has no names for.
    #[error("the {layout} layout cannot express {field} = {value}, expected {expected}")]
    Inexpressible {
        /// The layout asked for.
        layout: Layout,
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        value: String,
        /// What the layout can express.
        expected: &'static str,
    },
    /// A foreign model that computes what this crate's does not.
    #[error("cannot take over {field} = {value} of the {layout} layout, expected {expected}")]
    Unsupported {
        /// The layout it is in.
        layout: Layout,
        /// What its library calls the setting.
        field: String,
        /// Its value.
        value: String,
        /// What can be taken over.
        expected: &'static str,
    },
    /// A setting of a foreign model that neither its files nor its parameters' shapes tell.
    #[error("cannot tell {field}: {reason}")]
    Untold {
        /// The field of the configuration.
        field: &'static str,
        /// Why not.
        reason: String,
    },
    /// A foreign model's JSON that cannot be understood.
    #[error("cannot understand {document}")]
    Document {
        /// The name of the file it is in.
        document: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Two models that differ in more than the size of their images.
    #[error("a model at another image size keeps its {field}, expected {expected}, got {got}")]
    NotAResize {
        /// The first field of the configuration that differs.
        field: String,
        /// What the model has that the parameters are of.
        expected: String,
        /// What the other model has.
        got: String,
    },
    /// Tensors that are not those of the configuration: each one by name.
    #[error("{layout} parameters do not fit the configuration:\n  {}", problems.join("\n  "))]
    Parameters {
        /// The layout whose names were expected.
        layout: Layout,
        /// One line for each parameter that is missing, unexpected or of another shape.
        problems: Vec<String>,
    },
    /// Names that belong to no layout.
    #[error("the parameter names are of no known layout (timm, hf or notebook), got {example:?}")]
    UnknownLayout {
        /// One of the names, or nothing where there are none.
        example: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is no safetensors file.
    #[error("{} is not a safetensors file", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        source: std::io::Error,
    },
    /// A tensor in a file that cannot be used, such as one of a dtype that candle has not.
    #[error("{}: cannot use the tensor {name:?}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What candle said.
        source: Box<candle_core::Error>,
    },
    /// A configuration in a file that cannot be understood.
    #[error("{} carries a configuration that cannot be read", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Parameters that a model of another shape cannot begin with.
    #[error("the parameters are of a model with another {field}: expected {expected}, got {got}")]
    AnotherModel {
        /// The field of the configuration.
        field: String,
        /// The value of the model that the parameters are of.
        expected: String,
        /// The value of the model that is to begin with them.
        got: String,
    },
    /// A file that cannot be put together.
    #[error("cannot serialise the parameters")]
    Serialise(#[source] safetensors::SafeTensorError),
    /// A file that cannot be written.
    #[error(transparent)]
    Write(#[from] vit_files::Error),
    /// A tensor operation that failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
