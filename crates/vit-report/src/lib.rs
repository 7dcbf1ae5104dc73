#![doc = include_str!("../README.md")]

mod chart;
mod error;
pub mod metrics;
mod plots;

pub use error::Error;
pub use plots::write_plots;
