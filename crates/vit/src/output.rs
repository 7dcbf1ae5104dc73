//! Results on stdout, progress on stderr.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Prints a line. A closed stdout is an error that `failure` takes for success.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Prints one line of JSON.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_string(value).expect("results are plain data"))
}

/// A bar for a download on stderr, where that is a terminal.
pub(crate) fn download_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}");
    ProgressBar::no_length().with_style(style.expect("the template is well-formed"))
}

/// `41418` as `41,418`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `0.9753` as `97.53 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (41_418, "41,418")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
