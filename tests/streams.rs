//! Results go to stdout and everything else to stderr; either may be closed, or read by a program.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::running::Running;
use crate::support::{Sandbox, json_lines};

#[test]
fn closing_stdout_early_is_not_an_error() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let mut predicting = Running::start(&mut sandbox.command("predict run --dataset digits"));
    let mut line = String::new();
    BufReader::new(predicting.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(json_lines(line).len(), 1);
    let outcome = predicting.end().succeeded();
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_closed_stderr_does_not_end_a_run() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --max-steps 5 --run-dir run";
    let mut training = Running::start(&mut sandbox.command(words));
    drop(training.child().stderr.take());
    training.end().succeeded();
    assert!(sandbox.path("run/model.safetensors").exists());
}

/// Whether its reader has gone, or there never was one.
#[cfg(unix)]
#[test]
fn a_closed_stdout_does_not_end_a_run() {
    let sandbox = Sandbox::new();
    for words in ["", "--json"] {
        let words = format!("train --dataset digits --max-steps 2 --run-dir run {words}");
        let mut training = Running::start(&mut sandbox.command(&words));
        drop(training.child().stdout.take());
        let outcome = training.end().succeeded();
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        assert!(sandbox.path("run/report.html").exists());
        std::fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
    let words = "train --dataset digits --max-steps 2 --run-dir run";
    let mut shell = sandbox.script(&[], "exec \"$0\" \"$@\" >&-", words);
    let outcome = Running::start(&mut shell).end().succeeded();
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(sandbox.path("run/report.html").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_a_disk_error() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut info = sandbox.command("info run");
    let output = info.stdout(Stdio::from(full)).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: cannot write the result: "), "{stderr}");
}

#[test]
fn quiet_prints_nothing_on_success() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run("-q train --max-steps 1 --run-dir run").succeeded();
    assert_eq!(outcome.stderr, "");
    assert_ne!(outcome.stdout, "");
    assert_eq!(sandbox.run("eval run -q --dataset digits").succeeded().stderr, "");
}

#[test]
fn without_a_terminal_nothing_is_coloured_or_animated() {
    let sandbox = Sandbox::new();
    let outcomes = [
        sandbox.run("train -v --max-steps 1 --run-dir run"),
        sandbox.run("train --epochs 0"),
        sandbox.run("train --help"),
    ];
    for outcome in outcomes {
        for text in [outcome.stdout, outcome.stderr] {
            assert!(!text.contains(['\x1b', '\r']), "{text:?}");
        }
    }
}

#[test]
fn log_format_json_gives_json_lines() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run("--log-format json train --max-steps 1 --run-dir run").succeeded();
    let lines = json_lines(&outcome.stderr);
    let of_level = |level: &str| {
        let lines = lines.iter().filter(|line| line["level"] == level);
        lines.filter_map(|line| line["fields"]["message"].as_str()).collect::<Vec<_>>()
    };
    assert!(of_level("WARN").iter().any(|message| message.starts_with("MNIST is neither present")));
    assert!(of_level("INFO").iter().any(|message| message.starts_with("epoch 1/20: loss ")));
    let refused = sandbox.run("--log-format json train --run-dir run");
    let refused = json_lines(&refused.stderr);
    assert_eq!(refused[0]["fields"]["message"], "run directory run already exists");
    assert_eq!(refused[1]["target"], "hint");
}

#[test]
fn verbose_logs_have_the_duration_of_spans() {
    let sandbox = Sandbox::new();
    let text = sandbox.train_digits("-v --max-steps 2").stderr;
    let closed = "debug: run:epoch{epoch=1}:evaluation: close time.busy=";
    assert!(text.lines().any(|line| line.starts_with(closed)), "{text}");
    assert!(!text.contains("step{"), "{text}");

    // Each thread takes half of a step's shards in one pass.
    let words =
        "-vv --log-format json train --dataset digits --max-steps 2 --threads 2 --run-dir all";
    let lines = json_lines(sandbox.run(words).succeeded().stderr);
    let closed = lines.iter().filter(|line| line["fields"]["message"] == "close");
    let names: Vec<&str> = closed.filter_map(|line| line["span"]["name"].as_str()).collect();
    for (name, count) in [("step", 2), ("shards", 4), ("forward", 4), ("backward", 4), ("run", 1)] {
        assert_eq!(names.iter().filter(|&&closed| closed == name).count(), count, "{name}");
    }
    let epoch = lines.iter().find(|line| line["span"]["name"] == "epoch").unwrap();
    assert_eq!(epoch["span"]["epoch"], 1);
}
