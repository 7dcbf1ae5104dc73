//! Launchers of several processes, with a `vit` built without MPI.
#![cfg(not(feature = "mpi"))]

use crate::support::{Outcome, Sandbox};

const LAUNCHERS: [(&str, &str); 3] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
];

fn launched(sandbox: &Sandbox, (rank, size): (&str, &str), of: [&str; 2], words: &str) -> Outcome {
    let mut command = sandbox.command(words);
    Outcome::of(&command.env(rank, of[0]).env(size, of[1]).output().unwrap())
}

#[test]
fn several_processes_without_mpi_are_rejected() {
    let sandbox = Sandbox::new();
    // Other ranks than 0 wait before they report.
    for (launcher, number) in LAUNCHERS.into_iter().zip(["0", "1", "0"]) {
        let words = "-q train --dataset digits --run-dir run";
        let refused = launched(&sandbox, launcher, [number, "2"], words);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        let (rank, _) = launcher;
        let expected = format!("{rank} announces 2 processes, but this vit is built without MPI");
        let hint = "hint: use `cargo xtask train --mpi 2`";
        let names_rank = refused.stderr.contains("error: rank 1 on ");
        assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
        assert!(refused.stderr.contains(hint), "{}", refused.stderr);
        assert_eq!(names_rank, number == "1", "{}", refused.stderr);
    }
    assert!(!sandbox.path("run").exists());
}

#[test]
fn one_process_and_other_commands_run_under_a_launcher() {
    let sandbox = Sandbox::new();
    for (rank, size) in LAUNCHERS {
        let run = format!("run-{size}");
        let words = format!("-q train --dataset digits --max-steps 2 --run-dir {run}");
        launched(&sandbox, (rank, size), ["0", "1"], &words).succeeded();
        launched(&sandbox, (rank, size), ["1", "2"], &format!("info {run}")).succeeded();
    }
}
