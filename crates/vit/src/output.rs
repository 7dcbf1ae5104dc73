//! Printing results to stdout, and formatting numbers.

use std::io::{self, ErrorKind};
use std::time::Duration;

use serde::Serialize;

use crate::failure::{Exit, Failure, Result};
use crate::terminal::{escaped, escaped_in_json, stdout};

/// Prints one line, escaped. A closed stdout is an error that `failure` turns into success.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<()> {
    write(&format!("{}\n", escaped(&text.to_string())))
}

/// Prints one line of JSON.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value).expect("results are plain data");
    write(&format!("{}\n", escaped_in_json(&line)))
}

/// Prints our own text of several lines, such as a script.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn lines(text: &str) -> Result<()> {
    let lines = text.lines().map(|line| format!("{}\n", escaped(line)));
    write(&lines.collect::<String>())
}

fn write(text: &str) -> Result<()> {
    stdout::write(text).map_err(|error| unwritable(&error))
}

/// A closed stdout is not a failure: the reader has seen enough.
pub(crate) fn unwritable(error: &io::Error) -> Failure {
    let is_closed = error.kind() == ErrorKind::BrokenPipe;
    let exit = if is_closed { Exit::ClosedPipe } else { Exit::File };
    Failure::new(exit, format!("cannot write the result: {error}"))
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

/// `9912422` as `9.9 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Hours, minutes and seconds, such as `4:02` or `1:00:00`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_like_a_clock() {
        for (seconds, text) in [(0, "0:00"), (242, "4:02"), (3600, "1:00:00"), (90_061, "25:01:01")]
        {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (41_418, "41,418")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
