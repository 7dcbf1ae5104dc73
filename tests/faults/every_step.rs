//! Runs that are ended after any step, and resumed.

use std::fs;

use super::{checkpoints, copy, outcome, sandbox, uninterrupted};

/// After every step of two epochs and the last steps, with another number of threads each.
#[test]
fn resuming_after_any_step_is_bit_identical() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let words = "-q train --config small.toml --save-every 1 --keep 100 --threads 1 --run-dir each";
    sandbox.run(words).succeeded();
    assert_eq!(outcome(&sandbox, "each"), whole);
    let steps = checkpoints(&sandbox, "each");
    assert_eq!(steps, (1..=40).collect::<Vec<_>>());
    for &step in steps.iter().filter(|step| !(10..38).contains(*step)) {
        copy(&sandbox.path("each"), &sandbox.path("run"));
        // As if it was killed before the next step: remove everything later.
        for later in &steps[step as usize..] {
            let name = format!("run/checkpoints/step-{later:06}");
            fs::remove_dir_all(sandbox.path(name)).unwrap();
        }
        let threads = 1 + step % 4;
        sandbox.run(&format!("-q train --resume run --threads {threads}")).succeeded();
        assert_eq!(outcome(&sandbox, "run"), whole, "after step {step}");
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

#[test]
fn a_run_without_a_checkpoint_starts_again() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::remove_dir_all(sandbox.path("whole/checkpoints")).unwrap();
    fs::remove_file(sandbox.path("whole/model.safetensors")).unwrap();
    let said = sandbox.run("train --resume whole").succeeded().stderr;
    assert!(said.contains("whole has no checkpoint yet: starting again"), "{said}");
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

/// A run can die while its report is written, so its end is written again.
#[test]
fn resuming_a_finished_run_only_rewrites_its_end() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::remove_file(sandbox.path("whole/report.html")).unwrap();
    fs::remove_file(sandbox.path("whole/model.safetensors")).unwrap();
    sandbox.run("train --resume whole").succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
    assert!(sandbox.path("whole/report.html").exists());
}

#[test]
fn resuming_without_shuffling_is_bit_identical() {
    let sandbox = sandbox();
    sandbox
        .run("-q train --config small.toml --no-shuffle --save-every 4 --run-dir whole")
        .succeeded();
    let whole = outcome(&sandbox, "whole");
    for later in checkpoints(&sandbox, "whole").into_iter().skip(1) {
        fs::remove_dir_all(sandbox.path(format!("whole/checkpoints/step-{later:06}"))).unwrap();
    }
    sandbox.run("-q train --resume whole").succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

/// Event files contain each remaining step once.
#[test]
fn tensorboard_events_match_the_metrics() {
    let sandbox = sandbox();
    let words = "-q train --config small.toml --tensorboard --save-every 7 --keep 9 --run-dir run";
    sandbox.run(words).succeeded();
    let steps = |folder: &str| -> usize {
        let files = fs::read_dir(sandbox.path(folder)).unwrap().map(|file| file.unwrap().path());
        files
            .map(|file| {
                let bytes = fs::read(file).unwrap();
                bytes.windows(9).filter(|part| *part == b"step/loss").count()
            })
            .sum()
    };
    let all = steps("run/tensorboard");
    assert!(all > 0);
    for later in checkpoints(&sandbox, "run").into_iter().skip(2) {
        fs::remove_dir_all(sandbox.path(format!("run/checkpoints/step-{later:06}"))).unwrap();
    }
    sandbox.run("-q train --resume run").succeeded();
    assert_eq!(steps("run/tensorboard"), all);
    assert_eq!(fs::read_dir(sandbox.path("run/tensorboard")).unwrap().count(), 1);
}
