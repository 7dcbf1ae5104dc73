//! Progress, shown at the bottom of the terminal.

mod count;
mod line;
mod screen;

pub(crate) use count::Counter;
pub(crate) use line::{Line, Style};
pub(crate) use screen::{AboveLines, Shown, allow, end, show};
