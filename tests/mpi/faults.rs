//! Any failure of one rank ends all ranks soon, with one message, and the run can be resumed.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::{
    Dice, SETTINGS, assert_checkpoints_are_whole, checkpoints, errors, has_metrics, lives, mpirun,
    on_ranks, outcome, process_of, sandbox, scripted, signal, times, uninterrupted,
};
use crate::running::Running;
use crate::support::{Outcome, Sandbox};

/// Time limit for all ranks to end.
const SOON: Duration = Duration::from_secs(10);

/// Waits until no rank lives. The launcher may end before the last process that it killed.
#[track_caller]
fn assert_all_end(sandbox: &Sandbox, ranks: usize, begun: Instant) {
    // A rank that ended before its start has no recorded process.
    while let Some(rank) = (0..ranks).find(|&rank| process_of(sandbox, rank).is_some_and(lives)) {
        assert!(begun.elapsed() < SOON, "rank {rank} lives");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// Kills a random rank at a random time and resumes the run on another number of ranks; after enough kills lets it
/// finish.
#[test]
fn killing_ranks_and_resuming_is_bit_identical() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let mut dice = Dice(11);
    let (mut deaths, mut runs) = (0, 0);
    loop {
        let is_last = deaths >= times(4, 50);
        let ranks = 2 + dice.below(3) as usize;
        let new = !sandbox.path("run").exists();
        let words = if new { "--config small.toml --run-dir run" } else { "--resume run" };
        for rank in 0..4 {
            let _ = fs::remove_file(sandbox.path(format!("rank-{rank}")));
        }
        let words = format!("-q train {words} --save-every 3 --threads 1");
        let running = Running::start(&mut mpirun(&sandbox, ranks, &words));
        let (killed, after) = (dice.below(ranks as u64) as usize, 300 + dice.below(1800));
        let mut process = None;
        if !is_last {
            thread::sleep(Duration::from_millis(after));
            process = process_of(&sandbox, killed).filter(|&process| lives(process));
            if let Some(process) = process {
                signal(process, "KILL");
            }
        }
        let begun = Instant::now();
        let ended = running.end();
        if ended.code == Some(0) {
            assert_eq!(outcome(&sandbox, "run"), whole, "after {deaths} deaths");
            runs += 1;
            if is_last {
                break;
            }
            fs::remove_dir_all(sandbox.path("run")).unwrap();
            continue;
        }
        assert!(process.is_some(), "{}", ended.stderr);
        deaths += 1;
        assert_all_end(&sandbox, ranks, begun);
        let told = format!("process rank {killed} with PID");
        assert_eq!(ended.stderr.matches(&told).count(), 1, "{}", ended.stderr);
        assert_checkpoints_are_whole(&sandbox);
    }
    println!("{deaths} deaths in {runs} whole runs");
}

/// Rank 0's files are limited to some kilobytes, so the first checkpoint cannot be written.
#[test]
fn a_full_disk_ends_all_ranks_and_the_run_resumes() {
    let sandbox = sandbox();
    // Other schedules depend on the number of steps.
    sandbox.write("small.toml", SETTINGS.replace("'one-cycle'", "'constant'"));
    let whole = uninterrupted(&sandbox);
    let some = "-q train --config small.toml --save-every 4 --max-steps 8 --run-dir run";
    on_ranks(&sandbox, 2, some).succeeded();
    let limit = "[ $OMPI_COMM_WORLD_RANK = 0 ] && ulimit -f 40; \
                 echo $$ > rank-$OMPI_COMM_WORLD_RANK; exec \"$0\" \"$@\"";
    let resume = "-q train --resume run --max-steps 40 --save-every 4";
    let begun = Instant::now();
    let mut command = scripted(&sandbox, 3, limit, resume);
    // Memory shared by ranks is a file too.
    let ended = Outcome::of(&command.env("OMPI_MCA_btl", "self,tcp").output().unwrap());
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert_all_end(&sandbox, 3, begun);
    let errors = errors(&ended);
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    assert!(errors[0].contains("run/"), "{errors:?}");
    assert_checkpoints_are_whole(&sandbox);
    on_ranks(&sandbox, 2, resume).succeeded();
    assert_eq!(outcome(&sandbox, "run").model, whole.model);
}

/// The learning rate rises until the loss is not finite: after some steps, not at once.
#[test]
fn a_non_finite_loss_ends_all_ranks_with_one_message_and_keeps_the_last_good_checkpoint() {
    let sandbox = sandbox();
    let rising = SETTINGS.replace("'one-cycle'", "'constant'\nwarmup = 1000000");
    sandbox.write("small.toml", rising.replace("lr = 1e-3", "lr = 1e14"));
    let words = "-q train --config small.toml --save-every 1 --run-dir";
    let alone = sandbox.run(&format!("{words} alone"));
    let expected = errors(&alone);
    let told = |run: &str| sandbox.read(&format!("{run}/diverged.json"));
    for (ranks, words) in
        [(3, &*format!("{words} run")), (2, "-q train --resume run --save-every 1")]
    {
        let mut running = Running::start(&mut mpirun(&sandbox, ranks, words));
        running.wait_until(|| sandbox.path("run/diverged.json").exists());
        let begun = Instant::now();
        let ended = running.end();
        assert_all_end(&sandbox, ranks, begun);
        assert_eq!((ended.code, alone.code), (Some(5), Some(5)), "{}", ended.stderr);
        assert_eq!(errors(&ended), expected, "{}", ended.stderr);
        assert!(told("run") == told("alone"));
        assert!(!checkpoints(&sandbox, "run").is_empty());
        assert_eq!(checkpoints(&sandbox, "run"), checkpoints(&sandbox, "alone"));
        assert_checkpoints_are_whole(&sandbox);
        fs::remove_file(sandbox.path("run/diverged.json")).unwrap();
    }
}

/// A file that only one rank cannot read: the error names the rank and its host.
#[test]
fn an_error_of_one_rank_names_it_and_ends_all() {
    let sandbox = sandbox();
    let elsewhere = "[ $OMPI_COMM_WORLD_RANK = 2 ] && set -- \"$@\" --init absent.safetensors; \
                     echo $$ > rank-$OMPI_COMM_WORLD_RANK; exec \"$0\" \"$@\"";
    let words = "-q train --config small.toml --run-dir run";
    let begun = Instant::now();
    let ended = Outcome::of(&scripted(&sandbox, 3, elsewhere, words).output().unwrap());
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert_all_end(&sandbox, 3, begun);
    let errors = errors(&ended);
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    assert!(errors[0].starts_with("error: rank 2 on "), "{errors:?}");
    assert!(errors[0].contains("absent.safetensors"), "{errors:?}");
    assert!(!has_metrics(&sandbox.path("run")));
}
