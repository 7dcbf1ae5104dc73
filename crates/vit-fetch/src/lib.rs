#![doc = include_str!("../README.md")]

mod check;
mod client;
mod environment;
mod error;
mod fetch;
mod mirror;
mod options;
mod presence;
mod source;

pub use environment::{data_root, user_mirrors};
pub use error::{Attempt, Error, Mismatch, Reason};
pub use fetch::{Outcome, fetch};
pub use mirror::{Mirror, redacted};
pub use options::{Event, Options};
pub use presence::{Presence, verify};
pub use source::{
    CIFAR_10, CIFAR_100, Checksum, DATASETS, FASHION_MNIST, MNIST, Source, SourceFile,
};
