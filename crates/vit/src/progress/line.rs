//! A progress line, fitted to the terminal's width.

use std::borrow::Cow;

use crate::terminal::escaped;

/// Gap between the parts of a line.
const GAP: &str = "  ";
/// Shorter bars are useless.
const SHORTEST_BAR: usize = 8;

/// How lines are drawn.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub(crate) colours: bool,
}

/// Name, bar and details.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Share done, from 0 to 1; `None` if unknown.
    pub(crate) done: Option<f64>,
    /// Most important first: the last ones are dropped if the line is too long.
    pub(crate) details: Vec<String>,
}

impl Line {
    /// The line in at most `columns` columns.
    pub(super) fn fitted(&self, columns: usize, style: Style) -> String {
        let name = escaped(&self.name);
        let shown: Vec<Cow<'_, str>> = self.details.iter().map(|text| escaped(text)).collect();
        let width = |text: &str| text.chars().count();
        let bar = if self.done.is_some() { GAP.len() + SHORTEST_BAR } else { 0 };
        let taken = width(&name) + bar;
        let details = (0..=shown.len()).rev().map(|count| shown[..count].join(", "));
        let details =
            details.map(|text| if text.is_empty() { text } else { format!("{GAP}{text}") });
        let fitting = details.into_iter().find(|text| taken + width(text) <= columns);
        match (fitting, self.done) {
            (Some(details), Some(done)) => {
                let columns = columns - width(&name) - width(&details) - GAP.len();
                format!("{name}{GAP}{}{details}", drawn(done, columns, style))
            }
            (Some(details), None) => format!("{name}{details}"),
            (None, _) => name.chars().take(columns).collect(),
        }
    }
}

/// A bar of this many columns.
fn drawn(done: f64, columns: usize, style: Style) -> String {
    let full = (done.clamp(0.0, 1.0) * columns as f64) as usize;
    let (full, rest) = ("━".repeat(full), "─".repeat(columns - full));
    if style.colours { format!("\x1b[36m{full}\x1b[2m{rest}\x1b[0m") } else { full + &rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colours: false };

    fn line(done: Option<f64>) -> Line {
        let details = ["loss 0.5000", "90.00 %", "41,203 images/s"].map(str::to_owned).to_vec();
        Line { name: "epoch".to_owned(), done, details }
    }

    #[test]
    fn the_last_details_are_dropped_first() {
        assert_eq!(
            line(Some(0.5)).fitted(58, PLAIN),
            "epoch  ━━━━━━──────  loss 0.5000, 90.00 %, 41,203 images/s"
        );
        assert_eq!(line(Some(0.25)).fitted(39, PLAIN), "epoch  ━━────────  loss 0.5000, 90.00 %");
        assert_eq!(line(Some(1.0)).fitted(20, PLAIN), "epoch  ━━━━━━━━━━━━━");
        assert_eq!(line(None).fitted(30, PLAIN), "epoch  loss 0.5000, 90.00 %");
        assert_eq!(line(Some(0.5)).fitted(3, PLAIN), "epo");
    }

    #[test]
    fn lines_never_exceed_the_width() {
        for columns in 0..100 {
            for done in [None, Some(0.0), Some(0.3), Some(1.0), Some(f64::NAN)] {
                assert!(line(done).fitted(columns, PLAIN).chars().count() <= columns);
            }
        }
    }

    #[test]
    fn file_names_are_escaped() {
        let line = Line { name: "a\r\u{1b}[2Jb".to_owned(), ..line(None) };
        assert_eq!(
            line.fitted(80, PLAIN),
            "a\\r\\u{1b}[2Jb  loss 0.5000, 90.00 %, 41,203 images/s"
        );
    }

    #[test]
    fn colours_do_not_change_the_width() {
        let coloured = line(Some(0.5)).fitted(60, Style { colours: true });
        let plain = coloured.replace("\x1b[36m", "").replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert_eq!(plain, line(Some(0.5)).fitted(60, PLAIN));
    }
}
