//! Any number of ranks is bit-identical, with one rank's output.

use std::collections::BTreeSet;
use std::thread;

use super::{SETTINGS, mpirun, on_ranks, outcome, sandbox};
use crate::support::{Outcome, Sandbox};

#[test]
fn ranks_and_threads_do_not_change_a_bit() {
    let sandbox = sandbox();
    let sgd = SETTINGS.replace("'adamw'", "'sgd'\nmomentum = 0.9").replace("ema = 0.9\n", "");
    sandbox.write("sgd.toml", sgd);
    // Ten shards of one or two images per step; no number of ranks here divides ten evenly.
    let uneven =
        SETTINGS.replace("batch_size = 9\n", "batch_size = 9\naccumulate = 2\nshards = 5\n");
    sandbox.write("uneven.toml", uneven);
    for (name, launches) in [
        ("small", [(1, 1), (2, 1), (3, 2), (4, 1)]),
        ("uneven", [(2, 2), (3, 1), (4, 1), (4, 2)]),
        ("sgd", [(2, 1), (3, 1), (4, 2), (2, 2)]),
    ] {
        let words =
            |run: &str| format!("-q train --config {name}.toml --save-every 4 --run-dir {run}");
        let run = format!("{name}-alone");
        sandbox.run(&words(&run)).succeeded();
        let alone = outcome(&sandbox, &run);
        for (ranks, threads) in launches {
            let run = format!("{name}-{ranks}-{threads}");
            on_ranks(&sandbox, ranks, &format!("{} --threads {threads}", words(&run))).succeeded();
            assert_eq!(
                outcome(&sandbox, &run),
                alone,
                "{ranks} ranks of {threads} threads, {name}"
            );
        }
    }
}

#[test]
fn resuming_on_any_number_of_ranks_is_bit_identical() {
    let sandbox = sandbox();
    // Other schedules depend on the number of steps.
    sandbox.write("small.toml", SETTINGS.replace("'one-cycle'", "'constant'"));
    for (ranks, until) in [(3, 14), (2, 21), (4, 27), (1, 40)] {
        for (run, ranks) in [("alone", 1), ("run", ranks)] {
            let resumes = sandbox.path(run).exists();
            let words = if resumes { "--resume" } else { "--config small.toml --run-dir" };
            let words = format!("-q train {words} {run} --max-steps {until}");
            on_ranks(&sandbox, ranks, &words).succeeded();
        }
        assert_eq!(outcome(&sandbox, "run"), outcome(&sandbox, "alone"), "after {until} steps");
    }
    sandbox.run("-q verify run").succeeded();
}

/// Lines of output, without those about speed.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split(" images/s").next().unwrap_or(line).to_owned()).collect()
}

#[test]
fn only_rank_0_prints() {
    let sandbox = sandbox();
    let words = |run: &str| format!("train --config small.toml --max-steps 9 --run-dir {run}");
    let alone = sandbox.run(&words("alone")).succeeded();
    let three = on_ranks(&sandbox, 3, &words("three")).succeeded();
    assert_eq!(lines(&three.stdout).len(), lines(&alone.stdout).len(), "{}", three.stdout);
    let said = lines(&three.stderr);
    assert_eq!(said.len(), lines(&alone.stderr).len(), "{}", three.stderr);
    assert_eq!(said.iter().collect::<BTreeSet<_>>().len(), said.len(), "{}", three.stderr);
    // Each has its share of the cores.
    let threads = match thread::available_parallelism().unwrap().get() / 3 {
        0 | 1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    assert!(three.stderr.contains(&format!("3 ranks of {threads},")), "{}", three.stderr);
}

#[test]
fn a_benchmark_on_ranks_reports_waiting_time() {
    let words = "-q bench train --batch-size 8 --steps 20 --warmup 2 --threads 1 --json";
    let result = on_ranks(&sandbox(), 2, words).succeeded().json();
    let [waits, step] = ["communication_ms", "median_ms"].map(|key| result[key].as_f64().unwrap());
    assert!(result["ranks"] == 2 && 0.0 < waits && waits < step, "{result}");
}

/// With this transport excluded, initialising MPI would fail.
#[test]
fn without_a_launcher_mpi_is_not_initialised() {
    let sandbox: Sandbox = sandbox();
    let words = "-q train --config small.toml --max-steps 5 --run-dir";
    let mut alone = sandbox.command(&format!("{words} alone"));
    let alone = Outcome::of(&alone.env("OMPI_MCA_pml", "absent").output().unwrap());
    alone.succeeded();
    let mut two = mpirun(&sandbox, 2, &format!("{words} two"));
    let two = Outcome::of(&two.env("OMPI_MCA_pml", "absent").output().unwrap());
    assert_ne!(two.code, Some(0));
}
