//! Configuration errors.

/// An invalid configuration. Each variant names the field and its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size that must be at least one.
    #[error("expected {field} of at least 1, got 0")]
    Zero {
        /// The field of the configuration.
        field: &'static str,
    },
    /// An image size that is not divisible by the patch size.
    #[error(
        "image of {image_height}x{image_width} px is not divisible by patch of {patch_height}x{patch_width} px"
    )]
    NotDivisible {
        /// Height of the image.
        image_height: usize,
        /// Width of the image.
        image_width: usize,
        /// Height of a patch.
        patch_height: usize,
        /// Width of a patch.
        patch_width: usize,
    },
    /// A width that does not suit sine and cosine positions.
    #[error(
        "expected a dim that is a multiple of 4 and at least 8 for sincos2d positions, got {dim}"
    )]
    SincosDim {
        /// The width of a token.
        dim: usize,
    },
    /// A size that is too large.
    #[error("expected {field} of at most {limit}, got {value}")]
    TooLarge {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The largest allowed.
        limit: usize,
    },
}
