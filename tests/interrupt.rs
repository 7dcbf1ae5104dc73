//! Ctrl-C and SIGTERM: the first signal saves and ends the run, the second ends it at once.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::idx_folder::IdxFolder;
use crate::running::Running;
use crate::support::{Sandbox, json_lines};

/// Time limit for a run to end after a signal.
const SOON: Duration = Duration::from_secs(2);
/// Settings with steps of many seconds.
const ENDLESS_STEP: &str = "\
dataset = 'digits'
[train]
batch_size = 256
[model]
dim = 512
mlp_dim = 2048
depth = 8
";

#[test]
fn an_interrupted_run_ends_soon_and_saves_its_model() {
    for signal in ["INT", "TERM"] {
        let sandbox = Sandbox::new();
        let words = "train --dataset digits --epochs 1000 --log-every 1 --run-dir run";
        let mut training = Running::start(&mut sandbox.command(words));
        let metrics = sandbox.path("run/metrics.jsonl");
        training.wait_until(|| metrics.metadata().is_ok_and(|metrics| metrics.len() > 0));
        send(signal, &mut training);
        let begun = Instant::now();
        let outcome = training.end();
        assert!(begun.elapsed() < SOON, "SIG{signal}: it took {:?}", begun.elapsed());
        assert_eq!(outcome.code, Some(130), "SIG{signal}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
        let said = "warning: interrupted; the run is saved in run\nhint: continue with `vit train --resume run`\n";
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        assert_eq!(sandbox.run("info run --json").succeeded().json()["parameters"], 40_330);
        assert!(sandbox.path("run/plots/training-loss.svg").exists());
        let report = String::from_utf8(sandbox.read("run/report.html")).unwrap();
        assert!(report.contains("The run was interrupted"));
    }
}

#[test]
fn a_second_signal_ends_the_run_at_once() {
    let sandbox = Sandbox::new();
    sandbox.write("slow.toml", ENDLESS_STEP);
    let words = "train --config slow.toml --run-dir run";
    let mut training = Running::start(&mut sandbox.command(words));
    let metrics = sandbox.path("run/metrics.jsonl");
    training.wait_until(|| metrics.exists());
    send("INT", &mut training);
    std::thread::sleep(Duration::from_millis(300));
    training.assert_is_running();
    send("INT", &mut training);
    let begun = Instant::now();
    let outcome = training.end();
    assert!(begun.elapsed() < SOON / 2, "it took {:?}", begun.elapsed());
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert!(!sandbox.path("run/model.safetensors").exists());
}

#[test]
fn other_commands_end_at_once() {
    for signal in ["INT", "TERM"] {
        let sandbox = Sandbox::new();
        sandbox.train_digits("--max-steps 1");
        // Nobody reads its output: it blocks when the pipe is full, and does not end by itself.
        let mut predicting =
            Running::start(&mut sandbox.command("predict run --dataset digits --split train"));
        predicting.child().stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        send(signal, &mut predicting);
        let begun = Instant::now();
        let outcome = predicting.end();
        assert!(begun.elapsed() < SOON / 2, "SIG{signal}: it took {:?}", begun.elapsed());
        assert_eq!(outcome.code, Some(130), "SIG{signal}: {}", outcome.stderr);
    }
}

pub(crate) fn send(signal: &str, to: &mut Running) {
    let process = to.child().id().to_string();
    assert!(Command::new("kill").args(["-s", signal, &process]).status().unwrap().success());
}

/// An interrupted epoch continues on resume, and is not the best one yet.
#[test]
fn an_interruption_does_not_change_the_best_epoch() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --epochs 2 --lr 0.02 --val-split 0.01 --log-every 20";
    sandbox.run(&format!("{words} --run-dir whole")).succeeded();
    let mut training = Running::start(&mut sandbox.command(&format!("{words} --run-dir run")));
    let metrics = sandbox.path("run/metrics.jsonl");
    // In the middle of the second epoch, whose weights may be better than the first's.
    training.wait_until(|| {
        let text = std::fs::read_to_string(&metrics).unwrap_or_default();
        text.lines().skip_while(|line| !line.contains("\"epoch\",")).count() > 3
    });
    send("INT", &mut training);
    assert_eq!(training.end().code, Some(130));
    sandbox.run("train --resume run").succeeded();
    for name in ["best.safetensors", "model.safetensors"] {
        let same = sandbox.read(&format!("run/{name}")) == sandbox.read(&format!("whole/{name}"));
        assert!(same, "{name} differs");
    }
}

/// The terminal's window was closed: the run is saved although nobody reads its messages.
#[test]
fn closing_the_terminal_saves_and_ends_the_run() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --epochs 1000 --log-every 1 --run-dir run";
    let mut training = Running::start(&mut sandbox.command(words));
    let metrics = sandbox.path("run/metrics.jsonl");
    training.wait_until(|| metrics.metadata().is_ok_and(|metrics| metrics.len() > 0));
    drop(training.child().stderr.take());
    drop(training.child().stdout.take());
    send("HUP", &mut training);
    let begun = Instant::now();
    assert_eq!(training.end().code, Some(130));
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    sandbox.run("verify run").succeeded();
}

/// A model of 3.2 million parameters, and so many test images.
fn slow_to_evaluate(test: u32) -> Sandbox {
    let sandbox = Sandbox::new();
    IdxFolder { test, ..IdxFolder::default() }.write(&sandbox, "images");
    let train = "dataset = 'images'\n[train]\nbatch_size = 20\nlog_every = 1\n";
    let model = "[model]\ndim = 256\nmlp_dim = 1024\ndepth = 4\n";
    sandbox.write("slow.toml", format!("{train}{model}"));
    sandbox
}

/// Interrupts a run once its metrics contain `has`; checks that it ends soon, with its model.
#[track_caller]
fn interrupt_once(sandbox: &Sandbox, words: &str, has: &str) {
    let words = format!("train --config slow.toml --run-dir run {words}");
    let mut training = Running::start(&mut sandbox.command(&words));
    let metrics = sandbox.path("run/metrics.jsonl");
    training.wait_until(|| {
        std::fs::read_to_string(&metrics).is_ok_and(|metrics| metrics.contains(has))
    });
    send("INT", &mut training);
    let begun = Instant::now();
    let outcome = training.end();
    // A busy machine may take twice as long to save it.
    assert!(begun.elapsed() < 2 * SOON, "it took {:?}", begun.elapsed());
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
    let said = "warning: interrupted; the run is saved in run\nhint: continue with `vit train --resume run`\n";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    sandbox.run("verify run --files-only").succeeded();
}

/// An evaluation of many seconds is interrupted, and the training before it is saved.
#[test]
fn a_slow_evaluation_does_not_delay_an_interruption() {
    let sandbox = slow_to_evaluate(20_000);
    interrupt_once(&sandbox, "", "\"step\":2,");
    assert!(sandbox.path("run/checkpoints/step-000002").exists());
}

/// Nor does a report, which evaluates too; the trace is written before it.
#[test]
fn a_slow_report_does_not_delay_an_interruption() {
    let sandbox = slow_to_evaluate(8_000);
    interrupt_once(&sandbox, "--max-steps 1 --trace trace.json", "\"epoch\",");
    let trace: serde_json::Value = serde_json::from_slice(&sandbox.read("trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|event| event["name"] == "step"), "{} events", events.len());
}

#[test]
fn a_slow_first_step_does_not_delay_an_interruption() {
    let sandbox = Sandbox::new();
    sandbox.write("slow.toml", ENDLESS_STEP);
    let mut training =
        Running::start(&mut sandbox.command("train --config slow.toml --run-dir run"));
    let metrics = sandbox.path("run/metrics.jsonl");
    training.wait_until(|| metrics.exists());
    send("INT", &mut training);
    let begun = Instant::now();
    let outcome = training.end();
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    let said = "warning: interrupted in the middle of a step; run has the last saved state\nhint: continue with `vit train --resume run`\n";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    assert!(!sandbox.path("run/model.safetensors").exists());
}

/// The reader of stderr does not read, but waits for the end: the training is saved.
#[test]
fn an_unread_log_does_not_delay_an_interruption() {
    let sandbox = Sandbox::new();
    let words = "-vv train --dataset digits --epochs 1000 --log-every 1 --run-dir run";
    let mut training = Running::start(&mut sandbox.command(words));
    let metrics = sandbox.path("run/metrics.jsonl");
    training.wait_until(|| metrics.metadata().is_ok_and(|metrics| metrics.len() > 0));
    // By then the pipe is full.
    std::thread::sleep(Duration::from_millis(500));
    send("INT", &mut training);
    let begun = Instant::now();
    let status = training.child().wait().unwrap();
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    assert_eq!(status.code(), Some(130));
    let recorded = json_lines(sandbox.read("run/metrics.jsonl"));
    let last = recorded.last().unwrap()["step"].as_u64().unwrap();
    assert!(sandbox.path(format!("run/checkpoints/step-{last:06}")).exists(), "{last} steps");
    sandbox.run("verify run --files-only").succeeded();
}
