//! Configuration errors.

/// An invalid configuration. Each variant names the field and its value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size that must be at least one.
    #[error("expected {field} of at least 1, got 0")]
    Zero {
        /// The field of the configuration.
        field: &'static str,
    },
    /// A width that cannot be split into equal heads.
    #[error("expected heads that divide dim, got {heads} heads for a dim of {dim}")]
    Heads {
        /// The number of heads.
        heads: usize,
        /// The width of a token.
        dim: usize,
    },
    /// A rate outside `[0, 1)`.
    #[error("expected {field} in [0, 1), got {rate}")]
    Rate {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        rate: f64,
    },
    /// A layer scale that would make every branch NaN.
    #[error("expected a finite layer_scale, got {scale}")]
    LayerScale {
        /// Its value.
        scale: f64,
    },
    /// An epsilon that would not keep a division finite.
    #[error("expected a positive layer_norm_eps, got {eps}")]
    Eps {
        /// Its value.
        eps: f64,
    },
    /// Rotary positions with a base that is not positive, or heads of odd width.
    #[error(
        "expected rotary with a positive base and heads of an even width, got a base of {base} and {head_dim}"
    )]
    Rotary {
        /// The base.
        base: f64,
        /// Width of a head.
        head_dim: usize,
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
