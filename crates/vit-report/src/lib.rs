#![doc = include_str!("../README.md")]

mod chart;
mod comparison;
mod csv;
mod error;
mod escape;
mod events;
mod explanation;
mod page;
mod picture;
mod plots;
mod report;

pub use comparison::{ComparedRun, Comparison, comparison_page};
pub use csv::write_csv;
pub use error::Error;
pub use events::EventFile;
pub use explanation::explanation;
pub use picture::Picture;
pub use plots::write_plots;
pub use report::{Attention, Mistake, Positions, Report, Tested, WORST, write_report};
