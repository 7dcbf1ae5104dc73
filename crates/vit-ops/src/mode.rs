//! Whether a forward pass evaluates or trains.

use vit_random::Random;

/// Whether a forward pass evaluates or trains.
///
/// Evaluation has no random numbers in its type: a layer in [`Mode::Eval`] has nothing to draw from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Deterministic: dropout and drop path are the identity.
    Eval,
    /// Dropout and drop path draw from this source, each at its own site.
    Train(Random),
}
