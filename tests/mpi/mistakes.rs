//! Wrong launches end before the first step; one that wastes cores gives a warning.

use std::process::Command;
use std::thread;

use super::{errors, on_ranks, sandbox, scripted};
use crate::idx_folder::IdxFolder;
use crate::support::Outcome;

const WORDS: &str = "-q train --config small.toml --run-dir run";

#[test]
fn differing_ranks_are_named_by_field() {
    let sandbox = sandbox();
    sandbox.write("elsewhere/small.toml", super::SETTINGS);
    let label = |index: u32| ((index + 1) % 10) as u8;
    IdxFolder { label, ..IdxFolder::default() }.write(&sandbox, "elsewhere/tiny");
    let on_rank_1 =
        |script: &str| format!("[ $OMPI_COMM_WORLD_RANK = 1 ] && {script}; exec \"$0\" \"$@\"");
    for (script, field) in [
        ("set -- \"$@\" --seed 3", "  train.seed: 0 on rank 0, 3 on rank 1 on "),
        ("export VIT_SIMD=portable", "  instructions: "),
        ("cd elsewhere", "  data_sha256: "),
    ] {
        let outcome = scripted(&sandbox, 3, &on_rank_1(script), WORDS).output().unwrap();
        let outcome = Outcome::of(&outcome);
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        assert_eq!(errors(&outcome), ["error: the ranks differ:"], "{}", outcome.stderr);
        assert_eq!(outcome.stderr.matches(field).count(), 1, "{field}: {}", outcome.stderr);
        assert!(!sandbox.path("run").exists());
    }
}

#[test]
fn more_ranks_than_shards_are_rejected() {
    let sandbox = sandbox();
    let outcome = on_ranks(&sandbox, 5, WORDS);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let expected = "error: expected at most 4 ranks, one for each shard of a step, got 5";
    assert_eq!(errors(&outcome), [expected], "{}", outcome.stderr);
    assert!(outcome.stderr.contains("raise `shards` under [train]"), "{}", outcome.stderr);
}

/// With another MPI's launcher, each process is a world of its own.
#[test]
fn a_launcher_of_another_mpi_is_reported() {
    let sandbox = sandbox();
    let mut command = sandbox.command(WORDS);
    command.env("PMI_RANK", "0").env("PMI_SIZE", "2");
    let outcome = Outcome::of(&command.output().unwrap());
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let expected = "error: expected 2 ranks (from PMI_RANK), got 1 in MPI_COMM_WORLD";
    assert_eq!(errors(&outcome), [expected], "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: the launcher is of another MPI"), "{}", outcome.stderr);
}

#[test]
fn usage_errors_are_printed_once() {
    let sandbox = sandbox();
    for words in ["train --epoch 3", "-q train --config absent.toml"] {
        let outcome = on_ranks(&sandbox, 3, words);
        assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
        assert_eq!(errors(&outcome).len(), 1, "{}", outcome.stderr);
    }
}

/// Open MPI's default binding, on a machine with more cores.
#[test]
fn ranks_bound_to_one_core_give_a_warning() {
    let sandbox = sandbox();
    let bound = "exec taskset -c 0 \"$0\" \"$@\"";
    let words = "train --config small.toml --max-steps 2 --run-dir run";
    let outcome = Outcome::of(&scripted(&sandbox, 2, bound, words).output().unwrap()).succeeded();
    let warnings = outcome.stderr.lines().filter(|line| line.starts_with("warning: rank "));
    let warnings: Vec<&str> = warnings.collect();
    let cores = thread::available_parallelism().unwrap();
    assert_eq!(warnings.len(), usize::from(cores.get() > 1), "{}", outcome.stderr);
    if warnings.is_empty() {
        return;
    }
    assert!(warnings[0].starts_with("warning: rank 0 on "), "{warnings:?}");
    assert!(warnings[0].contains(" may use 1 of "), "{warnings:?}");
    assert!(outcome.stderr.contains("hint: pass `--bind-to none` to mpirun"), "{}", outcome.stderr);
}

/// An MPI that grants a lower thread level than requested, like one built without threads.
const SERIALIZED: &str = "\
#include <mpi.h>
int MPI_Init_thread(int *argc, char ***argv, int required, int *provided) {
  return PMPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, provided);
}
";

#[test]
fn an_mpi_without_threads_is_rejected() {
    let sandbox = sandbox();
    sandbox.write("serialized.c", SERIALIZED);
    let mut compiler = Command::new("mpicc");
    compiler.args(["-shared", "-fPIC", "serialized.c", "-o", "serialized.so"]);
    assert!(compiler.current_dir(sandbox.path("")).status().unwrap().success());
    let preloaded = "LD_PRELOAD=$PWD/serialized.so exec \"$0\" \"$@\"";
    let outcome = Outcome::of(&scripted(&sandbox, 2, preloaded, WORDS).output().unwrap());
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let expected =
        "error: expected an MPI that any thread may call (MPI_THREAD_MULTIPLE), got Serialized";
    assert_eq!(errors(&outcome), [expected], "{}", outcome.stderr);
    assert!(!sandbox.path("run").exists());
}
