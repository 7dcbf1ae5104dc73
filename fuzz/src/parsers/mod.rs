//! All of ours that reads what somebody else may have written, each with what must hold whatever the bytes are.
//!
//! The fuzz targets call these functions, and so does an ordinary test, `tests/parsers` of the workspace, with the inputs
//! that are committed. A panic is a finding; so is too much memory or time, which whoever calls has to look at.

mod checkpoint;
mod foreign;
mod idx;
mod metrics;
mod model_config;
mod safetensors;
mod scratch;
mod sums;

/// A parser by the name of its target.
pub(crate) struct Parser {
    pub(crate) name: &'static str,
    /// Has it read bytes, and tells whether it takes them for what they are to be.
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
