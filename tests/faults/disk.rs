//! Disks that are full or not to be written, and places that are not there.
#![cfg(unix)]
#![expect(clippy::print_stderr, reason = "it is said why a test was skipped")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{assert_nothing_temporary, checkpoints, copy, outcome, sandbox, uninterrupted};
use crate::running::Running;
use crate::support::{Outcome, Sandbox};

/// A mount namespace of one's own.
const NAMESPACE: [&str; 3] = ["unshare", "--map-root-user", "--mount"];

/// With which a script says that the machine does not let it try.
const SKIPPED: i32 = 77;

/// `vit` with a limit on the size of its files, in blocks of 512 bytes.
pub(super) fn limited(sandbox: &Sandbox, blocks: u32, words: &str) -> Outcome {
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    Outcome::of(&sandbox.script(&[], &script, words).output().unwrap())
}

/// What a script comes to that mounts something; none where an ordinary user may not.
fn in_a_namespace(sandbox: &Sandbox, script: &str, words: &str) -> Option<Outcome> {
    let may = Command::new(NAMESPACE[0]).args(&NAMESPACE[1..]).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: unshare gives no mount namespace here");
        return None;
    }
    let outcome = Outcome::of(&sandbox.script(&NAMESPACE, script, words).output().unwrap());
    if outcome.code == Some(SKIPPED) {
        eprintln!("skipped: nothing can be mounted here: {}", outcome.stderr);
        return None;
    }
    Some(outcome)
}

/// `vit` without the right of root to write where nobody may; none where that cannot be laid down.
fn unprivileged(sandbox: &Sandbox, words: &str) -> Option<Outcome> {
    unprivileged_after(sandbox, ":", words)
}

/// The same after a command of the shell's.
fn unprivileged_after(sandbox: &Sandbox, first: &str, words: &str) -> Option<Outcome> {
    fs::create_dir_all(sandbox.path("probe")).unwrap();
    forbid(sandbox, "probe");
    let script = format!("[ ! -w probe ] || exit {SKIPPED}; {first}; exec \"$0\" \"$@\"");
    let lesser = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    for within in [&[][..], &lesser] {
        let Ok(output) = sandbox.script(within, &script, words).output() else { continue };
        if output.status.code() != Some(SKIPPED) {
            return Some(Outcome::of(&output));
        }
    }
    eprintln!("skipped: root may write everywhere, and there is no setpriv");
    None
}

fn forbid(sandbox: &Sandbox, folder: &str) {
    fs::set_permissions(sandbox.path(folder), fs::Permissions::from_mode(0o555)).unwrap();
}

fn allow(sandbox: &Sandbox, folder: &str) {
    fs::set_permissions(sandbox.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The state is larger than the file may be, what is written before it is not.
#[test]
fn a_limit_on_files_ends_the_run_and_leaves_the_last_checkpoint() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let state = sandbox.read("whole/checkpoints/step-000040/state.safetensors").len();
    let words = "train --config small.toml --save-every 5 --keep 9 --run-dir run";
    let stopped = limited(&sandbox, (state / 512 - 2) as u32, &format!("-q {words}"));
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("cannot write run/checkpoints/step-"), "{}", stopped.stderr);
    assert!(checkpoints(&sandbox, "run").is_empty());
    assert_nothing_temporary(&sandbox);
    // Where there was one it stays, and is what the run goes on from.
    copy(&sandbox.path("whole"), &sandbox.path("second"));
    for later in [36, 40] {
        fs::remove_dir_all(sandbox.path(format!("second/checkpoints/step-{later:06}"))).unwrap();
    }
    let stopped = limited(&sandbox, (state / 512 - 2) as u32, "-q train --resume second");
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert_eq!(checkpoints(&sandbox, "second"), [32]);
    assert_nothing_temporary(&sandbox);
    for run in ["run", "second"] {
        sandbox.run(&format!("-q train --resume {run}")).succeeded();
        assert_eq!(outcome(&sandbox, run), whole);
    }
}

#[test]
fn a_disk_that_fills_while_pictures_are_cached_leaves_no_cache() {
    let sandbox = Sandbox::new();
    crate::own_pictures::flowers(&sandbox);
    let words = "--dataset flowers --image-size 32 --batch-size 16 --max-steps 2 --data-dir data --run-dir run";
    let stopped = limited(&sandbox, 64, &format!("-q train {words}"));
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("cannot write"), "{}", stopped.stderr);
    assert_nothing_temporary(&sandbox);
    assert!(fs::read_dir(sandbox.path("data/pictures")).unwrap().next().is_none());
    assert!(!sandbox.path("run").exists());
    sandbox.run(&format!("-q train {words}")).succeeded();
}

/// A small file system of its own, where an ordinary user may mount one. Once there is room the run goes on.
#[test]
fn a_full_disk_ends_the_run_and_leaves_the_last_checkpoint() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::create_dir(sandbox.path("disk")).unwrap();
    // Room for a checkpoint or two; then for all.
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs disk || exit {SKIPPED}
        \"$0\" \"$@\" 2> said; echo $? > code
        ls -AR disk/run > left
        \"$0\" verify disk/run --files-only --json > verified.json
        mount -o remount,size=64m disk || exit {SKIPPED}
        \"$0\" -q train --resume disk/run && cp -R disk/run run"
    );
    let words = "-q train --config small.toml --save-every 3 --keep 100 --run-dir disk/run";
    let Some(resumed) = in_a_namespace(&sandbox, &script, words) else { return };
    resumed.succeeded();
    let text = |name| String::from_utf8(sandbox.read(name)).unwrap();
    let said = text("said");
    assert_eq!(text("code"), "4\n", "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.starts_with("error: cannot write disk/run/"), "{said}");
    let hint = "hint: once it can be written, go on with `vit train --resume disk/run`\n";
    assert!(said.ends_with(hint), "{said}");
    assert!(!text("left").contains(".tmp-"), "{}", text("left"));
    let verified: Vec<serde_json::Value> =
        serde_json::from_slice(&sandbox.read("verified.json")).unwrap();
    assert!(verified.iter().all(|part| part["sound"] == true), "{verified:?}");
    let is_checkpoint =
        |part: &&serde_json::Value| part["part"].as_str().unwrap().starts_with("checkpoints/step-");
    assert!(verified.iter().filter(is_checkpoint).count() > 0, "{verified:?}");
    assert_eq!(outcome(&sandbox, "run"), whole);
    assert_nothing_temporary(&sandbox);
}

/// Where nobody may write nothing is begun; where nobody may any longer nothing is lost.
#[test]
fn a_folder_that_may_not_be_written_is_named_and_left_as_it_is() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::remove_dir_all(sandbox.path("whole/checkpoints/step-000040")).unwrap();
    fs::create_dir(sandbox.path("closed")).unwrap();
    let resume = "-q train --resume whole";
    for (folder, words, told) in [
        ("closed", "-q train --config small.toml --run-dir closed/run", "cannot write closed/run"),
        ("whole", resume, "cannot write whole/model.safetensors"),
        ("whole/checkpoints", resume, "cannot create whole/checkpoints/step-000040"),
    ] {
        forbid(&sandbox, folder);
        let refused = unprivileged(&sandbox, words);
        allow(&sandbox, folder);
        let Some(refused) = refused else { return };
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        let told = format!("error: {told}: Permission denied (os error 13)\nhint: ");
        assert!(refused.stderr.contains(&told), "{}", refused.stderr);
        assert_nothing_temporary(&sandbox);
    }
    assert!(fs::read_dir(sandbox.path("closed")).unwrap().next().is_none());
    assert_eq!(checkpoints(&sandbox, "whole"), [32, 36]);
    sandbox.run(resume).succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

#[test]
fn a_file_system_that_cannot_be_written_is_named() {
    let sandbox = sandbox();
    uninterrupted(&sandbox);
    fs::create_dir(sandbox.path("closed")).unwrap();
    let script = format!(
        "for folder in whole closed; do
            mount --bind $folder $folder && mount -o remount,bind,ro $folder || exit {SKIPPED}
        done
        exec \"$0\" \"$@\""
    );
    for (words, told) in [
        ("-q train --resume whole", "cannot open whole/.lock"),
        ("-q train --config small.toml --run-dir closed/run", "cannot write closed/run"),
        ("-q compare whole -o closed/compare.html", "cannot write closed/compare.html"),
    ] {
        let Some(refused) = in_a_namespace(&sandbox, &script, words) else { return };
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        let told = format!("error: {told}: Read-only file system (os error 30)\nhint: ");
        assert!(refused.stderr.contains(&told), "{}", refused.stderr);
    }
}

/// Nothing is made where it was, and where it is the run goes on.
#[test]
fn a_run_folder_that_is_taken_away_ends_the_run() {
    let sandbox = sandbox();
    sandbox.write("long.toml", super::SETTINGS.replace("epochs = 10", "epochs = 300"));
    let words = "-q train --config long.toml --run-dir";
    sandbox.run(&format!("{words} whole")).succeeded();
    for is_kept in [true, false] {
        let mut training = Running::start(&mut sandbox.command(&format!("{words} run")));
        training.wait_until(|| !checkpoints(&sandbox, "run").is_empty());
        fs::rename(sandbox.path("run"), sandbox.path("moved")).unwrap();
        if !is_kept {
            fs::remove_dir_all(sandbox.path("moved")).unwrap();
        }
        let ended = training.end();
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert!(lines[0].starts_with("error: cannot ") && lines[0].contains(" run"), "{lines:?}");
        let hint = "hint: run is gone: if it was moved, go on there with `vit train --resume`";
        assert_eq!(lines[1], hint);
        assert!(!sandbox.path("run").exists());
        if is_kept {
            sandbox.run("-q train --resume moved").succeeded();
            assert_eq!(outcome(&sandbox, "moved"), outcome(&sandbox, "whole"));
            fs::remove_dir_all(sandbox.path("moved")).unwrap();
        }
    }
}

#[test]
fn places_that_cannot_be_written_are_told_before_training() {
    let sandbox = sandbox();
    sandbox.write("file", "");
    for place in ["file/run", "/proc/run"] {
        let words = format!("train --config small.toml --run-dir {place}");
        sandbox.refuses(4, &words).saying(&["cannot"]);
    }
}

/// The permission is asked for before a model is looked for.
#[test]
fn an_output_in_a_folder_that_may_not_be_written_is_refused_before_any_work() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("closed")).unwrap();
    forbid(&sandbox, "closed");
    for words in [
        "explain absent absent.png -o closed/out.png",
        "compare absent -o closed/out.html",
        "export absent --layout notebook -o closed/out.safetensors",
        "export absent --layout hf -o closed/hf",
        "export absent --layout onnx -o closed/out.onnx",
        "import absent -o closed/out.safetensors",
        "man -o closed/man1",
        "train --dataset absent --trace closed/trace.json",
    ] {
        let Some(refused) = unprivileged(&sandbox, &format!("-q {words}")) else { return };
        assert_eq!(refused.code, Some(4), "{words}: {}", refused.stderr);
        let said = &refused.stderr;
        assert!(said.starts_with("error: cannot write closed/"), "{words}: {said}");
        assert!(said.contains("Permission denied"), "{words}: {said}");
    }
    allow(&sandbox, "closed");
    assert!(fs::read_dir(sandbox.path("closed")).unwrap().next().is_none());
}

/// The folder that a run is made in cannot be looked into by its own maker.
#[test]
fn a_umask_that_takes_every_right_away_leaves_nothing_behind() {
    let sandbox = sandbox();
    let words = "-q train --config small.toml --run-dir runs/run";
    fs::create_dir(sandbox.path("runs")).unwrap();
    let Some(refused) = unprivileged_after(&sandbox, "umask 777", words) else { return };
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
    assert!(fs::read_dir(sandbox.path("runs")).unwrap().next().is_none());
}

/// The cache folder below a file, and one that may not be written.
#[test]
fn without_a_cache_folder_training_goes_on_with_digits_and_says_why() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    fs::create_dir(sandbox.path("closed")).unwrap();
    forbid(&sandbox, "closed");
    for cache in ["file", "closed"] {
        let first = format!("export XDG_CACHE_HOME=$PWD/{cache}");
        let words = format!("train --max-steps 1 --run-dir {cache}-run");
        let Some(trained) = unprivileged_after(&sandbox, &first, &words) else { return };
        let trained = trained.succeeded();
        let lines: Vec<&str> = trained.stderr.lines().collect();
        let why = |line: &&str| {
            line.starts_with("warning: MNIST has no place to be kept (cannot ")
                && line.contains(&format!("/{cache}/vit/mnist"))
                && line.ends_with(": this run is on built-in digits")
        };
        assert_eq!(lines.iter().filter(|line| why(line)).count(), 2, "{}", trained.stderr);
        assert!(lines.last().is_some_and(why), "{}", trained.stderr);
        assert!(trained.stdout.starts_with("dataset         digits (built in, not MNIST)\n"));
        // By name it is MNIST or nothing.
        let words = "-q train --dataset mnist --max-steps 1 --run-dir other";
        let Some(refused) = unprivileged_after(&sandbox, &first, words) else { return };
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        assert!(refused.stderr.contains("--data-dir DIR"), "{}", refused.stderr);
        assert!(!sandbox.path("other").exists());
    }
    allow(&sandbox, "closed");
}
