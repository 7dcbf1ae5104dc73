//! Full and read-only disks, and missing folders.
#![cfg(unix)]
#![expect(clippy::print_stderr, reason = "a skipped test prints the reason")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{assert_nothing_temporary, checkpoints, copy, outcome, sandbox, uninterrupted};
use crate::running::Running;
use crate::support::{Outcome, Sandbox};

/// Runs a command in its own mount namespace.
const NAMESPACE: [&str; 3] = ["unshare", "--map-root-user", "--mount"];

/// Exit code of a script that this machine cannot run.
const SKIPPED: i32 = 77;

/// `vit` with a limit on the size of its files, in blocks of 512 bytes.
pub(super) fn limited(sandbox: &Sandbox, blocks: u32, words: &str) -> Outcome {
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    Outcome::of(&sandbox.script(&[], &script, words).output().unwrap())
}

/// Runs a script that mounts something; `None` if an ordinary user may not.
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

/// Runs `vit` without root's right to write everywhere; `None` if that is not possible.
fn unprivileged(sandbox: &Sandbox, words: &str) -> Option<Outcome> {
    unprivileged_after(sandbox, ":", words)
}

/// The same after a shell command.
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

/// The limit is below the state's size, but above the files written before it.
#[test]
fn a_file_size_limit_ends_the_run_and_keeps_the_last_checkpoint() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    let state = sandbox.read("whole/checkpoints/step-000040/state.safetensors").len();
    let words = "train --config small.toml --save-every 5 --keep 9 --run-dir run";
    let stopped = limited(&sandbox, (state / 512 - 2) as u32, &format!("-q {words}"));
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("cannot write run/checkpoints/step-"), "{}", stopped.stderr);
    assert!(checkpoints(&sandbox, "run").is_empty());
    assert_nothing_temporary(&sandbox);
    // An existing checkpoint stays, and the run resumes from it.
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
fn a_full_disk_while_caching_pictures_leaves_no_cache() {
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

/// A small file system, if an ordinary user may mount one. The run resumes once there is space.
#[test]
fn a_full_disk_ends_the_run_and_keeps_the_last_checkpoint() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::create_dir(sandbox.path("disk")).unwrap();
    // Space for one or two checkpoints; later for all.
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
    let hint = "hint: once it is writable, continue with `vit train --resume disk/run`\n";
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

/// Without write permission a new run does not start, and a resumed run loses nothing.
#[test]
fn a_read_only_folder_is_named_and_not_changed() {
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
fn a_read_only_file_system_is_named() {
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

/// Nothing is created at the old path; the run resumes at the new one.
#[test]
fn moving_the_run_directory_ends_the_run() {
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
        let hint = "hint: run is gone: if it was moved, continue there with `vit train --resume`";
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
fn unwritable_places_are_reported_before_training() {
    let sandbox = sandbox();
    sandbox.write("file", "");
    for place in ["file/run", "/proc/run"] {
        let words = format!("train --config small.toml --run-dir {place}");
        sandbox.refuses(4, &words).saying(&["cannot"]);
    }
}

/// Checked before a model is looked for.
#[test]
fn outputs_in_a_read_only_folder_are_rejected_before_any_work() {
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

/// The run directory is not accessible even to its owner.
#[test]
fn a_umask_of_777_leaves_nothing_behind() {
    let sandbox = sandbox();
    let words = "-q train --config small.toml --run-dir runs/run";
    fs::create_dir(sandbox.path("runs")).unwrap();
    let Some(refused) = unprivileged_after(&sandbox, "umask 777", words) else { return };
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
    assert!(fs::read_dir(sandbox.path("runs")).unwrap().next().is_none());
}

/// The cache folder is below a file, or not writable.
#[test]
fn without_a_cache_folder_training_uses_digits_and_logs_the_reason() {
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
            line.starts_with("warning: MNIST cannot be stored (cannot ")
                && line.contains(&format!("/{cache}/vit/mnist"))
                && line.ends_with("; using built-in digits instead")
        };
        assert_eq!(lines.iter().filter(|line| why(line)).count(), 2, "{}", trained.stderr);
        assert!(lines.last().is_some_and(why), "{}", trained.stderr);
        assert!(trained.stdout.starts_with("dataset         digits (built in, not MNIST)\n"));
        // With `--dataset mnist` there is no fallback.
        let words = "-q train --dataset mnist --max-steps 1 --run-dir other";
        let Some(refused) = unprivileged_after(&sandbox, &first, words) else { return };
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        assert!(refused.stderr.contains("--data-dir DIR"), "{}", refused.stderr);
        assert!(!sandbox.path("other").exists());
    }
    allow(&sandbox, "closed");
}
