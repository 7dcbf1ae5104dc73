//! A run's metrics as CSV.

use std::io::{self, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use vit_files::{lines_of_at_most, open_file};
use vit_run::{LONGEST_LINE, METRICS, TABLE};

use crate::error::Error;

/// Most columns, ten times a run's; further ones are dropped.
const MOST_COLUMNS: usize = 256;

/// Writes a run's `metrics.jsonl` as `metrics.csv` beside it; returns the path. It has a row for each line and a column
/// for each name in any of them; missing cells are empty. Replaces an existing file.
///
/// # Errors
/// If the metrics cannot be read or the table cannot be written.
pub fn write_csv(run_dir: &Path) -> Result<PathBuf, Error> {
    let source = run_dir.join(METRICS);
    let unreadable = |error| Error::Io { operation: "read", path: source.clone(), source: error };
    // The identifying columns come first, the others in the order they occur.
    let mut columns = ["kind", "step", "epoch"].map(str::to_owned).to_vec();
    let read = records(&source, |record| {
        for name in record.keys() {
            if columns.len() < MOST_COLUMNS && !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        Ok(())
    });
    read.map_err(unreadable)?;
    let path = run_dir.join(TABLE);
    vit_files::write_atomically_with(&path, |table| {
        writeln!(table, "{}", columns.join(","))?;
        records(&source, |record| {
            let cell = |name: &String| record.get(name).map(cell).unwrap_or_default();
            writeln!(table, "{}", columns.iter().map(cell).collect::<Vec<_>>().join(","))
        })
    })?;
    Ok(path)
}

/// Passes on the records up to the first too long line. Skips a last line that is still being written.
fn records(
    path: &Path,
    mut give: impl FnMut(Map<String, Value>) -> io::Result<()>,
) -> io::Result<()> {
    for line in lines_of_at_most(LONGEST_LINE, BufReader::new(open_file(path)?)) {
        match line {
            Ok(line) => serde_json::from_slice(&line).map_or(Ok(()), &mut give)?,
            Err(error) if error.kind() == ErrorKind::InvalidData => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Quoted as in RFC 4180.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if !text.contains([',', '"', '\n', '\r']) => text.clone(),
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_line_is_a_row_and_every_name_a_column() {
        let run = tempfile::tempdir().unwrap();
        let lines = concat!(
            r#"{"kind":"step","step":1,"epoch":1,"loss":2.5,"lr":0.0003}"#,
            "\n",
            r#"{"epoch":1,"kind":"epoch","step":1,"test_accuracy":null,"note":"a, \"b\""}"#,
            "\n",
            r#"{"kind":"st"#,
        );
        fs::write(run.path().join(METRICS), lines).unwrap();
        let table = fs::read_to_string(write_csv(run.path()).unwrap()).unwrap();
        let expected = "kind,step,epoch,loss,lr,note,test_accuracy\n\
                        step,1,1,2.5,0.0003,,\n\
                        epoch,1,1,,,\"a, \"\"b\"\"\",\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn a_missing_run_is_named() {
        let error = write_csv(Path::new("no-run")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no-run/metrics.jsonl");
    }
}
