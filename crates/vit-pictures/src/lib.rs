#![doc = include_str!("../README.md")]

#[cfg(test)]
mod agreement;
mod cache;
mod colour;
mod decode;
mod error;
mod options;
mod picture;
mod plane;
mod policy;
mod resize;
mod shrunk;
mod simd;
mod upright;
mod view;

pub use cache::Cache;
pub use decode::several::length_of_first;
pub use decode::{MOST_BYTES, decode, decode_file, file_bytes, shrink};
pub use error::Error;
pub use options::{Background, DecodeOptions};
pub use picture::Picture;
pub use plane::{Plane, invert, normalised, planes_of};
pub use resize::{Interpolation, resize};
pub use shrunk::Shrunk;
pub use view::{EvalView, Jitter, Policy, TrainView};
