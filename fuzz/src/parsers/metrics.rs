//! `metrics.jsonl`, with the reports made from it.

use serde_json::Value;
use vit_report::{ComparedRun, Comparison, EventFile, comparison_page, write_csv, write_plots};
use vit_run::{METRICS, Record, read_metrics, read_records};

use super::scratch::Scratch;

thread_local! {
    static FOLDER: Scratch = Scratch::new();
}

/// Property: records round-trip bit for bit, and any numbers can be drawn.
pub(super) fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        folder.write(METRICS, bytes);
        let path = folder.path().join(METRICS);
        let read = read_records(&path, |record| {
            if record == Record::Other {
                return;
            }
            let line = serde_json::to_string(&record).expect("a record is plain data");
            let again: Record = serde_json::from_str(&line).expect("what was written");
            // NaN does not equal itself.
            assert_eq!(format!("{again:?}"), format!("{record:?}"));
        });
        let Ok(metrics) = read_metrics(&path) else { return false };
        read.expect("lines that were read at once");
        // Lines of other kinds may not fit a table.
        let _ = write_csv(folder.path());
        write_plots(folder.path()).expect("metrics that were read");
        let runs =
            ["a", "b"].map(|name| ComparedRun { name: name.to_owned(), metrics: metrics.clone() });
        let comparison =
            Comparison { runs: runs.into(), table: Vec::new(), differences: Vec::new() };
        assert!(comparison_page(&comparison).ends_with("</html>\n"));
        let text = String::from_utf8_lossy(bytes);
        let records: Vec<Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let events = EventFile::replace(&folder.path().join("events"));
        let mut events = events.expect("a writable folder");
        records.iter().try_for_each(|record| events.append(record)).expect("a writable file");
        true
    })
}
