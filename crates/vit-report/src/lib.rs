#![doc = include_str!("../README.md")]

mod chart;
mod error;
mod explanation;
pub mod metrics;
mod page;
mod picture;
mod plots;
mod report;

pub use error::Error;
pub use explanation::explanation;
pub use picture::Picture;
pub use plots::write_plots;
pub use report::{Attention, Mistake, Positions, Report, Tested, write_report};
