#![doc = include_str!("../README.md")]

mod launch;
#[cfg(feature = "mpi")]
mod world;

pub use launch::Launch;
#[cfg(feature = "mpi")]
pub use world::{Error, World, abort};
