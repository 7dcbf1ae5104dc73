//! What is served, as the server knows it.

use serde_json::Value;

use crate::Problem;

/// A model that answers requests. Its methods compute, and are called from several threads at a time.
pub trait Model: Send + Sync {
    /// What `GET /v1/model` answers.
    fn about(&self) -> &Value;

    /// Whether a forward pass is so short that it is computed where the request is read.
    fn is_quick(&self) -> bool;

    /// Makes of a picture what the model sees.
    ///
    /// # Errors
    /// If it is no picture, or not one for this model.
    fn see(&self, input: Input<'_>, ask: &Ask) -> Result<Seen, Problem>;

    /// The probabilities of the classes, for each image. Those of one do not depend on the others.
    ///
    /// # Errors
    /// If the model fails.
    fn predict(&self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Problem>;

    /// What `POST /v1/predict` answers.
    ///
    /// # Errors
    /// If the probabilities are not finite.
    fn answer(&self, seen: &Seen, probabilities: Vec<f32>, ask: &Ask) -> Result<Vec<u8>, Problem>;

    /// What `POST /v1/explain` answers.
    ///
    /// # Errors
    /// If the model fails, or what is asked for is not there.
    fn explain(&self, seen: &Seen, ask: &Ask, what: &Explain) -> Result<Vec<u8>, Problem>;
}

/// A picture as it was sent.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The bytes of a picture file.
    File(&'a [u8]),
    /// Rows of pixels, 0 to 255, one after the other, and the channels of each pixel: 1 or 3.
    Pixels {
        /// Of the picture.
        width: usize,
        /// Of the picture.
        height: usize,
        /// 1 or 3.
        channels: usize,
        /// `height * width * channels` of them.
        pixels: &'a [u8],
    },
}

/// A picture as the model sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the model is given, channel by channel and row by row.
    pub values: Vec<f32>,
    /// Whether light and dark were exchanged.
    pub inverted: bool,
    /// What was done to the picture, in words.
    pub done: String,
}

/// How a picture is taken, and what is answered: the flags of `vit predict`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// `--top-k`
    pub top_k: Option<u16>,
    /// `--invert`
    pub invert: Option<String>,
    /// `--fit`
    pub fit: Option<String>,
}

/// What is explained beside the rollout and the attention of the token that the head reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explain {
    /// The attention of every token, where the model has few, or of this patch alone.
    pub of: Option<Of>,
    /// The numbers of this layer's head, from pixels to class; both from 0.
    pub walk: Option<(usize, usize)>,
}

/// Whose attention is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// That of each patch.
    All,
    /// That of one, by its number from 0.
    Patch(usize),
}
