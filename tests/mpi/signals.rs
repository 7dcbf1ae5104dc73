//! Signals: the run saves after one step on all ranks, and ends.

use std::thread;
use std::time::{Duration, Instant};

use super::{has_metrics, mpirun, on_ranks, outcome, process_of, sandbox, signal, uninterrupted};
use crate::running::Running;

/// Signals the launcher, which forwards it, or one rank, which informs the others.
#[test]
fn a_signal_to_launcher_or_rank_saves_and_ends_all_ranks() {
    let sandbox = sandbox();
    let long = "--config small.toml --epochs 4000 --save-every 100000";
    for (name, to) in
        [("TERM", None), ("INT", None), ("USR1", None), ("USR1", Some(1)), ("TERM", Some(0))]
    {
        let run =
            format!("run-{name}-{}", to.map_or("all".to_owned(), |rank: usize| rank.to_string()));
        let words = format!("train {long} --run-dir {run}");
        let mut running = Running::start(&mut mpirun(&sandbox, 3, &words));
        running.wait_until(|| has_metrics(&sandbox.path(&run)));
        let process =
            to.map_or_else(|| running.child().id(), |rank| process_of(&sandbox, rank).unwrap());
        signal(process, name);
        let begun = Instant::now();
        let ended = running.end();
        assert!(begun.elapsed() < Duration::from_secs(10), "{run}: {:?}", begun.elapsed());
        assert_ne!(ended.code, Some(0), "{run}: {}", ended.stderr);
        let hint = format!("vit train --resume {run}");
        assert_eq!(ended.stderr.matches(&hint).count(), 1, "{run}: {}", ended.stderr);
        assert!(ended.stderr.contains("interrupted; the run is saved"), "{run}: {}", ended.stderr);
        sandbox.run(&format!("-q verify {run}")).succeeded();
    }
}

#[test]
fn an_interrupted_run_resumes_bit_identically_on_another_number_of_ranks() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let words = "-q train --config small.toml --save-every 100000 --run-dir run";
    let mut running = Running::start(&mut mpirun(&sandbox, 4, words));
    running.wait_until(|| has_metrics(&sandbox.path("run")));
    signal(running.child().id(), "USR1");
    running.end();
    on_ranks(&sandbox, 2, "-q train --resume run").succeeded();
    assert_eq!(outcome(&sandbox, "run"), whole);
}

/// The launcher treats a rank that exits early as failed, and ends rank 0 too.
#[test]
fn other_ranks_wait_while_rank_0_saves() {
    let sandbox = sandbox();
    let words = "train --config small.toml --epochs 4000 --save-every 100000 --run-dir run";
    let mut running = Running::start(&mut mpirun(&sandbox, 3, words));
    running.wait_until(|| has_metrics(&sandbox.path("run")));
    let first = process_of(&sandbox, 0).unwrap();
    signal(first, "STOP");
    signal(running.child().id(), "USR1");
    // Longer than a single process waits for its step.
    thread::sleep(Duration::from_secs(4));
    signal(first, "CONT");
    let ended = running.end();
    assert!(ended.stderr.contains("interrupted; the run is saved"), "{}", ended.stderr);
    sandbox.run("-q verify run").succeeded();
}
