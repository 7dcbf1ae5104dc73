//! Tables of text, as wide as the terminal allows.

use crate::terminal::escaped;

/// A truncated name keeps at least this many characters.
const SHORTEST: usize = 12;
const GAP: usize = 2;

/// Column widths; the first column is left-aligned, the others right-aligned.
pub(crate) struct Columns(Vec<usize>);

impl Columns {
    /// Columns of these widths. If the table is too wide, the first column is truncated; if that is not enough, the
    /// last columns are dropped, so they should be the least important.
    pub(crate) fn fitted(mut widths: Vec<usize>, available: Option<usize>) -> Self {
        let available = available.unwrap_or(usize::MAX);
        let least = |widths: &[usize]| {
            let [first, others @ ..] = widths else { return 0 };
            others
                .iter()
                .map(|width| width + GAP)
                .fold((*first).min(SHORTEST), usize::saturating_add)
        };
        while widths.len() > 2 && least(&widths) > available {
            widths.pop();
        }
        let others: usize = widths.iter().skip(1).map(|width| width + GAP).sum();
        if let Some(first) = widths.first_mut() {
            *first = (*first).min(available.saturating_sub(others)).max(SHORTEST.min(*first));
        }
        Self(widths)
    }

    /// A row of cells, escaped for the terminal.
    pub(crate) fn line<S: AsRef<str>>(&self, cells: &[S]) -> String {
        let cells = cells.iter().zip(&self.0).enumerate().map(|(column, (cell, &width))| {
            let cell = escaped(cell.as_ref());
            match column {
                0 => format!("{:<width$}", cut(&cell, width)),
                _ => format!("{cell:>width$}"),
            }
        });
        cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_owned()
    }
}

/// The lines of a table, headings first.
pub(crate) fn table<S: AsRef<str>>(rows: &[Vec<S>], available: Option<usize>) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| width(cell.as_ref())).max().unwrap_or(0)
    };
    let columns = Columns::fitted((0..columns).map(width).collect(), available);
    rows.iter().map(|row| columns.line(row)).collect()
}

/// Wraps a text at spaces; continuation lines are indented.
pub(crate) fn wrapped(text: &str, indent: usize, available: Option<usize>) -> Vec<String> {
    let available = available.unwrap_or(usize::MAX);
    let mut lines: Vec<String> = Vec::new();
    // Leading spaces belong to the first word.
    let mut words = text.trim_start().split(' ');
    let first = words.next().unwrap_or_default();
    let mut line = " ".repeat(text.len() - text.trim_start().len()) + first;
    for word in words {
        if width(&line) + 1 + width(word) > available {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent) + word));
        } else {
            line = line + " " + word;
        }
    }
    lines.push(line);
    lines
}

/// The display width of a text after escaping.
pub(crate) fn width(text: &str) -> usize {
    escaped(text).chars().count()
}

/// Truncates at the front: the end of a name says more.
fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let end = text.chars().skip(length + 1 - width.max(1));
    std::iter::once('…').chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [[&str; 4]; 3] = [
        ["run", "test", "train", "epochs"],
        ["runs/mnist-shallow-1", "97.67 %", "96.90 %", "20"],
        ["b", "9.00 %", "–", "5"],
    ];

    fn lines(width: Option<usize>) -> Vec<String> {
        table(&ROWS.map(|row| row.to_vec()), width)
    }

    #[test]
    fn columns_are_aligned() {
        let expected = [
            "run                      test    train  epochs",
            "runs/mnist-shallow-1  97.67 %  96.90 %      20",
            "b                      9.00 %        –       5",
        ];
        assert_eq!(lines(None), expected);
        assert_eq!(lines(Some(46)), expected);
    }

    #[test]
    fn narrow_terminals_get_shorter_names_then_fewer_columns() {
        for width in 22..46 {
            assert!(lines(Some(width)).iter().all(|line| line.chars().count() <= width), "{width}");
        }
        assert_eq!(lines(Some(40))[1], "…ist-shallow-1  97.67 %  96.90 %      20");
        assert_eq!(lines(Some(30))[1], "…t-shallow-1  97.67 %  96.90 %");
        assert_eq!(lines(Some(29))[1], "runs/mnist-shallow-1  97.67 %");
    }

    #[test]
    fn long_lines_are_wrapped_at_spaces() {
        let text = "  shallow: runs/a, runs/b, runs/c";
        assert_eq!(wrapped(text, 4, None), [text]);
        assert_eq!(wrapped(text, 4, Some(24)), ["  shallow: runs/a,", "    runs/b, runs/c"]);
        assert_eq!(wrapped("", 2, Some(1)), [""]);
    }

    #[test]
    fn width_counts_escaped_characters() {
        assert_eq!(width("a\u{1b}b"), 8);
        assert_eq!(table(&[vec!["a\u{1b}b", "1"]], None), ["a\\u{1b}b  1"]);
    }
}
