//! The server's interface to a model.

use serde_json::Value;

use crate::Problem;

/// A model that answers requests. Its methods are called from several threads at once.
pub trait Model: Send + Sync {
    /// The answer to `GET /v1/model`.
    fn about(&self) -> &Value;

    /// Whether a forward pass is fast enough for the thread that reads the request.
    fn is_quick(&self) -> bool;

    /// Converts a picture to a model input.
    ///
    /// # Errors
    /// If it is not a picture, or does not suit the model.
    fn see(&self, input: Input<'_>, ask: &Ask) -> Result<Seen, Problem>;

    /// Class probabilities of each image. Those of one do not depend on the others.
    ///
    /// # Errors
    /// If the model fails.
    fn predict(&self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Problem>;

    /// The answer to `POST /v1/predict`.
    ///
    /// # Errors
    /// If the probabilities are not finite.
    fn answer(&self, seen: &Seen, probabilities: Vec<f32>, ask: &Ask) -> Result<Vec<u8>, Problem>;

    /// The answer to `POST /v1/explain`.
    ///
    /// # Errors
    /// If the model fails, or the requested part does not exist.
    fn explain(&self, seen: &Seen, ask: &Ask, what: &Explain) -> Result<Vec<u8>, Problem>;
}

/// A picture in a request.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The bytes of a picture file.
    File(&'a [u8]),
    /// Pixels from 0 to 255, row by row, each with 1 or 3 channels.
    Pixels {
        /// Width of the picture.
        width: usize,
        /// Height of the picture.
        height: usize,
        /// 1 or 3.
        channels: usize,
        /// `height * width * channels` values.
        pixels: &'a [u8],
    },
}

/// A model input.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Normalised values, channel by channel and row by row.
    pub values: Vec<f32>,
    /// Whether light and dark were exchanged.
    pub inverted: bool,
    /// Description of the preprocessing.
    pub done: String,
}

/// Options of a prediction, like the flags of `vit predict`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// `--top-k`
    pub top_k: Option<u16>,
    /// `--invert`
    pub invert: Option<String>,
    /// `--fit`
    pub fit: Option<String>,
}

/// Parts of an explanation besides the rollout and the attention of the token that the head reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explain {
    /// Attention of every token (for small models), or of one patch.
    pub of: Option<Of>,
    /// The intermediate numbers of this layer and head, both from 0.
    pub walk: Option<(usize, usize)>,
}

/// Whose attention to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Every patch's.
    All,
    /// One patch's, by number from 0.
    Patch(usize),
}
