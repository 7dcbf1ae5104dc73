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
    fn prepare(&self, input: Input<'_>, options: &PredictOptions) -> Result<Prepared, Problem>;

    /// Class probabilities of each image. An image's probabilities do not depend on the others.
    ///
    /// # Errors
    /// If the model fails.
    fn predict(&self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Problem>;

    /// The answer to `POST /v1/predict`.
    ///
    /// # Errors
    /// If the probabilities are not finite.
    fn answer(
        &self,
        image: &Prepared,
        probabilities: Vec<f32>,
        options: &PredictOptions,
    ) -> Result<Vec<u8>, Problem>;

    /// The answer to `POST /v1/explain`.
    ///
    /// # Errors
    /// If the model fails, or the requested part does not exist.
    fn explain(
        &self,
        image: &Prepared,
        options: &PredictOptions,
        parts: &ExplainOptions,
    ) -> Result<Vec<u8>, Problem>;
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
pub struct Prepared {
    /// Normalised values, channel by channel and row by row.
    pub values: Vec<f32>,
    /// Whether light and dark were exchanged.
    pub inverted: bool,
    /// Description of the preprocessing.
    pub description: String,
}

/// Options of a prediction, like the flags of `vit predict`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PredictOptions {
    /// `--top-k`
    pub top_k: Option<u16>,
    /// `--invert`
    pub invert: Option<String>,
    /// `--fit`
    pub fit: Option<String>,
}

/// Parts of an explanation besides the rollout and the attention of the token that the head reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExplainOptions {
    /// The attention of every patch (for small models), or of one.
    pub patches: Option<Patches>,
    /// The intermediate numbers of this layer and head, both from 0.
    pub walk: Option<(usize, usize)>,
}

/// The patches whose attention to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patches {
    /// The attention of every patch.
    All,
    /// The attention of one patch, by number from 0.
    One(usize),
}
