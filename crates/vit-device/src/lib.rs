#![doc = include_str!("../README.md")]

mod build;
mod driver;
mod gpu;
mod libraries;
mod unusable;
mod version;

pub use build::{Build, NotABuild};
pub use gpu::{Gpu, find, gpus};
pub use unusable::Unusable;
