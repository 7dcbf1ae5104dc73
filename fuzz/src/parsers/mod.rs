//! All parsers of input from outside, each with its properties for arbitrary bytes.
//!
//! The fuzz targets call these functions, and so does a test, `tests/parsers` of the workspace, with the committed
//! inputs. A panic is a finding; so is too much memory or time, which the caller checks.

mod checkpoint;
mod foreign;
mod idx;
mod metrics;
mod model_config;
mod safetensors;
mod scratch;
mod sums;

/// A parser, named like its target.
pub(crate) struct Parser {
    pub(crate) name: &'static str,
    /// Parses the bytes; returns whether it accepts them.
    pub(crate) read: fn(&[u8]) -> bool,
}

pub(crate) const ALL: [Parser; 9] = [
    Parser { name: "checkpoint", read: checkpoint::read },
    Parser { name: "foreign", read: foreign::read },
    Parser { name: "idx", read: idx::read },
    Parser { name: "metrics", read: metrics::read },
    Parser { name: "model_config", read: model_config::read },
    Parser { name: "pictures", read: vit::fuzzing::picture },
    Parser { name: "safetensors", read: safetensors::read },
    Parser { name: "settings", read: vit::fuzzing::settings },
    Parser { name: "sums", read: sums::read },
];
