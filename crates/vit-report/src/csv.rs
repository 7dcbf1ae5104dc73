//! The metrics of a run as a table that spreadsheets read.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use vit_files::open_file;

use crate::error::Error;
use crate::metrics::LONGEST_LINE;

/// Writes a run's `metrics.jsonl` as `metrics.csv` beside it, and tells its path: a row a line, a column for each name
/// in any of them, empty where a line has none. One that is there is replaced.
///
/// # Errors
/// If the metrics cannot be read or the table cannot be written.
pub fn write_csv(run_dir: &Path) -> Result<PathBuf, Error> {
    let source = run_dir.join("metrics.jsonl");
    let text = open_file(&source).and_then(io::read_to_string).map_err(|error| Error::Io {
        operation: "read",
        path: source,
        source: error,
    })?;
    // A last line that is still being written is not a line yet.
    let lines = text.lines().filter(|line| line.len() <= LONGEST_LINE);
    let records: Vec<Map<String, Value>> =
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
    let path = run_dir.join("metrics.csv");
    vit_files::write_atomically(&path, table(&records).as_bytes())?;
    Ok(path)
}

/// Columns that tell which line it is come first, the others as they are met.
fn table(records: &[Map<String, Value>]) -> String {
    let mut columns = vec!["kind", "step", "epoch"];
    for name in records.iter().flat_map(Map::keys) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let row = |record: &Map<String, Value>| {
        let cell = |name: &&str| record.get(*name).map(cell).unwrap_or_default();
        columns.iter().map(cell).collect::<Vec<_>>().join(",")
    };
    let rows = std::iter::once(columns.join(",")).chain(records.iter().map(row));
    rows.map(|row| row + "\n").collect()
}

/// As RFC 4180 has it.
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
        fs::write(run.path().join("metrics.jsonl"), lines).unwrap();
        let table = fs::read_to_string(write_csv(run.path()).unwrap()).unwrap();
        let expected = "kind,step,epoch,loss,lr,note,test_accuracy\n\
                        step,1,1,2.5,0.0003,,\n\
                        epoch,1,1,,,\"a, \"\"b\"\"\",\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn an_absent_run_is_named() {
        let error = write_csv(Path::new("no-run")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no-run/metrics.jsonl");
    }
}
