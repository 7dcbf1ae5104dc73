//! TensorBoard's own reader on our event files.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Sandbox, json_lines};

fn python() -> Command {
    Command::new(std::env::var("VIT_PYTHON").unwrap_or_else(|_| "python3".to_owned()))
}

/// Whether `VIT_PYTHON`, or else `python3`, has TensorBoard.
pub(crate) fn is_installed() -> bool {
    let import = python().args(["-c", "import tensorboard"]).output();
    import.is_ok_and(|output| output.status.success())
}

pub(crate) fn tensorboards_own_reader_reads_the_events() {
    const READER: &str = "\
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
tags = events.Tags()['scalars']
print(json.dumps({tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in tags}))
";
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 7 --log-every 2 --tensorboard");
    let read = python().args(["-c", READER]).arg(sandbox.path("run/tensorboard")).output();
    let read = read.unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let scalars: Value = serde_json::from_slice(&read.stdout).unwrap();
    let mut expected = serde_json::Map::new();
    for record in json_lines(sandbox.read("run/metrics.jsonl")) {
        let record = record.as_object().unwrap();
        for (name, value) in record.iter().filter(|(_, value)| value.is_number()) {
            if ["step", "epoch"].contains(&name.as_str()) {
                continue;
            }
            let tag = format!("{}/{name}", record["kind"].as_str().unwrap());
            let point = json!([record["step"], f64::from(value.as_f64().unwrap() as f32)]);
            expected.entry(tag).or_insert_with(|| json!([])).as_array_mut().unwrap().push(point);
        }
    }
    assert_eq!(scalars, Value::Object(expected));
}
