//! The same bits on any number of ranks, and one voice.

use std::collections::BTreeSet;

use super::{SETTINGS, mpirun, on_ranks, result, sandbox, uninterrupted};
use crate::support::{Outcome, Sandbox};

#[test]
fn ranks_and_threads_do_not_change_a_bit() {
    let sandbox = sandbox();
    let sgd = SETTINGS.replace("'adamw'", "'sgd'\nmomentum = 0.9").replace("ema = 0.9\n", "");
    sandbox.write("sgd.toml", sgd);
    for (name, config) in
        [("adamw", "small.toml"), ("two", "small.toml --accumulate 2"), ("sgd", "sgd.toml")]
    {
        let run = |of: &str| format!("{name}-{of}");
        let words = format!("-q train --config {config} --save-every 4 --run-dir");
        sandbox.run(&format!("{words} {}", run("alone"))).succeeded();
        let alone = result(&sandbox, &run("alone"));
        for (ranks, threads) in [(1, 1), (2, 1), (2, 2), (3, 1), (4, 2)] {
            let folder = run(&format!("{ranks}-{threads}"));
            on_ranks(&sandbox, ranks, &format!("{words} {folder} --threads {threads}")).succeeded();
            let trained = result(&sandbox, &folder);
            assert!(trained == alone, "{ranks} ranks of {threads} threads, {name}: other bits");
        }
    }
}

#[test]
fn a_run_resumes_on_any_number_of_ranks_to_the_same_bits() {
    let sandbox = sandbox();
    // The number of steps sets any other schedule.
    sandbox.write("small.toml", SETTINGS.replace("'one-cycle'", "'constant'"));
    let whole = uninterrupted(&sandbox);
    let some = "-q train --config small.toml --save-every 4 --max-steps 14 --run-dir run";
    on_ranks(&sandbox, 3, some).succeeded();
    for (ranks, until) in [(2, 21), (4, 27)] {
        on_ranks(&sandbox, ranks, &format!("-q train --resume run --max-steps {until}"))
            .succeeded();
    }
    sandbox.run("-q train --resume run --max-steps 40").succeeded();
    assert_eq!(result(&sandbox, "run").model, whole.model);
    sandbox.run("-q verify run").succeeded();
}

/// Lines of a run, without what tells its speed.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split(" images/s").next().unwrap_or(line).to_owned()).collect()
}

#[test]
fn rank_0_alone_speaks() {
    let sandbox = sandbox();
    let words = |run: &str| format!("train --config small.toml --max-steps 9 --run-dir {run}");
    let alone = sandbox.run(&words("alone")).succeeded();
    let three = on_ranks(&sandbox, 3, &words("three")).succeeded();
    assert_eq!(lines(&three.stdout).len(), lines(&alone.stdout).len(), "{}", three.stdout);
    let said = lines(&three.stderr);
    assert_eq!(said.len(), lines(&alone.stderr).len(), "{}", three.stderr);
    assert_eq!(said.iter().collect::<BTreeSet<_>>().len(), said.len(), "{}", three.stderr);
    assert!(three.stderr.contains("3 ranks of 1 thread") || three.stderr.contains("3 ranks of "));
}

/// MPI that is initialised fails for want of this transport.
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
