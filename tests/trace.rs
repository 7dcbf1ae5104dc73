//! `vit train --trace`: steps by thread, in Chrome's trace format.

use serde_json::Value;

use crate::support::Sandbox;

/// The spans of a trace, without its thread names.
fn spans(sandbox: &Sandbox, file: &str) -> Vec<Value> {
    let trace: Value = serde_json::from_slice(&sandbox.read(file)).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    events.iter().filter(|event| event["ph"] == "X").cloned().collect()
}

fn named<'a>(spans: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    spans.iter().filter(move |span| span["name"] == name)
}

/// Whether a span is inside another.
fn is_within(inner: &Value, outer: &Value) -> bool {
    let times = |span: &Value| {
        let begin = span["ts"].as_f64().unwrap();
        (begin, begin + span["dur"].as_f64().unwrap())
    };
    let ((inner_begin, inner_end), (begin, end)) = (times(inner), times(outer));
    // Times are rounded to nanoseconds.
    begin - 0.01 <= inner_begin && inner_end <= end + 0.01
}

#[test]
fn the_first_steps_are_traced_by_thread() {
    let sandbox = Sandbox::new();
    sandbox.write("trace.json", "what was there before");
    sandbox.train_digits("--max-steps 80 --threads 2 --trace trace.json --force");
    let spans = spans(&sandbox, "trace.json");
    let steps: Vec<&Value> = named(&spans, "step").collect();
    let numbers = steps.iter().map(|step| step["args"]["step"].as_u64().unwrap());
    assert!(numbers.eq(1..=50));
    for name in ["shards", "batch", "forward", "backward", "sum", "update"] {
        let each = if ["sum", "update"].contains(&name) { 1 } else { 2 };
        // The first step makes its own batches; the last traced step also makes its successor's.
        let ahead = if name == "batch" { 2 } else { 0 };
        assert_eq!(named(&spans, name).count(), 50 * each + ahead, "{name}");
        for span in named(&spans, name) {
            assert_eq!(steps.iter().filter(|step| is_within(span, step)).count(), 1, "{span}");
        }
    }
    for name in ["forward", "backward"] {
        for span in named(&spans, name) {
            let shards = named(&spans, "shards").filter(|shard| shard["tid"] == span["tid"]);
            assert_eq!(shards.filter(|shard| is_within(span, shard)).count(), 1, "{span}");
        }
    }
    let mut threads: Vec<_> = named(&spans, "shards").map(|shard| shard["tid"].as_u64()).collect();
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), 2);
    let evaluations: Vec<&Value> = named(&spans, "evaluation").collect();
    assert_eq!(evaluations.len(), 1);
    assert!(named(&spans, "part").all(|part| is_within(part, evaluations[0])));
    assert!(named(&spans, "part").count() > 1);
}

#[test]
fn a_trace_changes_no_bit() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 60 --trace trace.json");
    sandbox.run("train --dataset digits --max-steps 60 --run-dir plain").succeeded();
    assert!(sandbox.read("run/model.safetensors") == sandbox.read("plain/model.safetensors"));
}

#[test]
fn a_run_that_ends_early_writes_its_trace() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 3 --trace short.json");
    assert_eq!(named(&spans(&sandbox, "short.json"), "step").count(), 3);
    let words = "train --dataset digits --lr 1e30 --trace diverged.json --run-dir diverged";
    assert_eq!(sandbox.run(words).code, Some(5));
    assert!(named(&spans(&sandbox, "diverged.json"), "step").count() > 0);
}

#[test]
fn an_unwritable_trace_is_reported_before_training() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --run-dir run --trace no/such/folder/trace.json";
    sandbox.refuses(4, words).saying(&["no/such/folder"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_trace_that_cannot_be_written_at_the_end_is_an_error() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --max-steps 2 --run-dir run --trace /dev/full";
    let outcome = sandbox.run(words);
    assert_eq!(outcome.code, Some(4));
    assert!(outcome.stderr.contains("cannot write /dev/full"), "{}", outcome.stderr);
    sandbox.run("verify run").succeeded();
}
