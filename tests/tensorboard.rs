//! Metrics for other programs: TensorBoard's event files, and a CSV table.

use std::fs;

use crate::support::{Sandbox, json_lines};

#[test]
fn every_number_of_the_metrics_is_in_the_event_file() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 6 --log-every 2 --tensorboard");
    let files: Vec<_> = fs::read_dir(sandbox.path("run/tensorboard")).unwrap().collect();
    assert_eq!(files.len(), 1);
    let path = files[0].as_ref().unwrap().path();
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
    let records = records(&fs::read(&path).unwrap());
    let metrics = json_lines(sandbox.read("run/metrics.jsonl"));
    // The first record is the format version.
    assert_eq!(records.len(), 1 + metrics.len());
    assert!(records[0].ends_with(b"brain.Event:2"));
    for (record, line) in records[1..].iter().zip(&metrics) {
        let kind = line["kind"].as_str().unwrap();
        for (name, value) in line.as_object().unwrap() {
            if ["kind", "step", "epoch"].contains(&name.as_str()) {
                continue;
            }
            let mut scalar = format!("{kind}/{name}").into_bytes();
            scalar.push(21);
            scalar.extend((value.as_f64().unwrap() as f32).to_le_bytes());
            assert!(record.windows(scalar.len()).any(|bytes| bytes == scalar), "{kind}/{name}");
        }
    }
}

#[test]
fn without_the_flag_there_are_no_events() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    assert!(!sandbox.path("run/tensorboard").exists());
}

#[test]
fn the_table_has_a_row_for_each_record() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 4 --log-every 2");
    let table = String::from_utf8(sandbox.read("run/metrics.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    let metrics = json_lines(sandbox.read("run/metrics.jsonl"));
    assert_eq!(rows.len(), 1 + metrics.len());
    for (row, line) in rows[1..].iter().zip(&metrics) {
        for (column, cell) in rows[0].iter().zip(row) {
            let expected = match line.get(column) {
                None => String::new(),
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(number) => number.to_string(),
            };
            assert_eq!(*cell, expected, "{column}");
        }
    }
}

/// The data between lengths and checksums.
fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        records.push(file[12..12 + length].to_vec());
        file = &file[12 + length + 4..];
    }
    records
}
