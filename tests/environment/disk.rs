//! Full and read-only disks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

use crate::small_run::{checkpoints, outcome, sandbox, uninterrupted};
use crate::support::{Outcome, Sandbox};

/// Runs a command in its own mount namespace.
const NAMESPACE: [&str; 3] = ["unshare", "--map-root-user", "--mount"];

/// Whether this user may mount in such a namespace.
pub(crate) fn can_mount() -> bool {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("probe")).unwrap();
    let mount = "mount -t tmpfs tmpfs probe && mount -o remount,size=1m probe
        mount --bind probe probe && mount -o remount,bind,ro probe";
    let mounted = sandbox.script(&NAMESPACE, mount, "").output();
    mounted.is_ok_and(|output| output.status.success())
}

/// Runs a script that mounts something.
fn in_a_namespace(sandbox: &Sandbox, script: &str, words: &str) -> Outcome {
    Outcome::of(&sandbox.script(&NAMESPACE, script, words).output().unwrap())
}

/// The command that takes from root the right to write everywhere, empty for other users; `None` if there is none.
static UNPRIVILEGED: LazyLock<Option<&[&str]>> = LazyLock::new(|| {
    const WITHOUT: &[&str] = &["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("probe")).unwrap();
    forbid(&sandbox, "probe");
    [&[], WITHOUT].into_iter().find(|within| {
        let output = sandbox.script(within, "[ ! -w probe ]", "").output();
        output.is_ok_and(|output| output.status.success())
    })
});

/// Whether `vit` can run without the right to write everywhere.
pub(crate) fn can_be_unprivileged() -> bool {
    UNPRIVILEGED.is_some()
}

/// Runs `vit` without that right.
fn unprivileged(sandbox: &Sandbox, words: &str) -> Outcome {
    unprivileged_after(sandbox, ":", words)
}

/// The same after a shell command.
fn unprivileged_after(sandbox: &Sandbox, first: &str, words: &str) -> Outcome {
    let script = format!("{first}; exec \"$0\" \"$@\"");
    Outcome::of(&sandbox.script(UNPRIVILEGED.unwrap(), &script, words).output().unwrap())
}

fn forbid(sandbox: &Sandbox, folder: &str) {
    fs::set_permissions(sandbox.path(folder), fs::Permissions::from_mode(0o555)).unwrap();
}

fn allow(sandbox: &Sandbox, folder: &str) {
    fs::set_permissions(sandbox.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A small file system. The run resumes once there is space.
pub(crate) fn a_full_disk_ends_the_run_and_keeps_the_last_checkpoint() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::create_dir(sandbox.path("disk")).unwrap();
    // Space for one or two checkpoints; later for all.
    let script = "mount -t tmpfs -o size=1m tmpfs disk || exit 1
        \"$0\" \"$@\" 2> said; echo $? > code
        ls -AR disk/run > left
        \"$0\" verify disk/run --files-only --json > verified.json
        mount -o remount,size=64m disk
        \"$0\" -q train --resume disk/run && cp -R disk/run run";
    let words = "-q train --config small.toml --save-every 3 --keep 100 --run-dir disk/run";
    in_a_namespace(&sandbox, script, words).succeeded();
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
    sandbox.assert_nothing_temporary();
}

/// Without write permission a new run does not start, and a resumed run loses nothing.
pub(crate) fn a_read_only_folder_is_named_and_not_changed() {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    fs::remove_dir_all(sandbox.path("whole/checkpoints/step-000040")).unwrap();
    fs::create_dir(sandbox.path("closed")).unwrap();
    let resume = "-q train --resume whole";
    for (folder, words, told) in [
        ("closed", "-q train --config small.toml --run-dir closed/run", "cannot write closed/run"),
        ("whole", resume, "cannot write whole/model.safetensors"),
        ("whole/checkpoints", resume, "cannot replace whole/checkpoints/last"),
    ] {
        forbid(&sandbox, folder);
        let refused = unprivileged(&sandbox, words);
        allow(&sandbox, folder);
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        let told = format!("error: {told}: Permission denied (os error 13)\nhint: ");
        assert!(refused.stderr.contains(&told), "{}", refused.stderr);
        sandbox.assert_nothing_temporary();
    }
    assert!(fs::read_dir(sandbox.path("closed")).unwrap().next().is_none());
    assert_eq!(checkpoints(&sandbox, "whole"), [32, 36]);
    sandbox.run(resume).succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
}

pub(crate) fn a_read_only_file_system_is_named() {
    let sandbox = sandbox();
    uninterrupted(&sandbox);
    fs::create_dir(sandbox.path("closed")).unwrap();
    let script = "for folder in whole closed; do
            mount --bind $folder $folder && mount -o remount,bind,ro $folder || exit 1
        done
        exec \"$0\" \"$@\"";
    for (words, told) in [
        ("-q train --resume whole", "cannot open whole/.lock"),
        ("-q train --config small.toml --run-dir closed/run", "cannot write closed/run"),
        ("-q compare whole -o closed/compare.html", "cannot write closed/compare.html"),
    ] {
        let refused = in_a_namespace(&sandbox, script, words);
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        let told = format!("error: {told}: Read-only file system (os error 30)\nhint: ");
        assert!(refused.stderr.contains(&told), "{}", refused.stderr);
    }
}

/// Checked before a model is looked for.
pub(crate) fn outputs_in_a_read_only_folder_are_rejected_before_any_work() {
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
        let refused = unprivileged(&sandbox, &format!("-q {words}"));
        assert_eq!(refused.code, Some(4), "{words}: {}", refused.stderr);
        let said = &refused.stderr;
        assert!(said.starts_with("error: cannot write closed/"), "{words}: {said}");
        assert!(said.contains("Permission denied"), "{words}: {said}");
    }
    allow(&sandbox, "closed");
    assert!(fs::read_dir(sandbox.path("closed")).unwrap().next().is_none());
}

/// The run directory is not accessible even to its owner.
pub(crate) fn a_umask_of_777_leaves_nothing_behind() {
    let sandbox = sandbox();
    let words = "-q train --config small.toml --run-dir runs/run";
    fs::create_dir(sandbox.path("runs")).unwrap();
    let refused = unprivileged_after(&sandbox, "umask 777", words);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
    assert!(fs::read_dir(sandbox.path("runs")).unwrap().next().is_none());
}

/// The cache folder is below a file, or not writable.
pub(crate) fn without_a_cache_folder_training_uses_digits_and_logs_the_reason() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    fs::create_dir(sandbox.path("closed")).unwrap();
    forbid(&sandbox, "closed");
    for cache in ["file", "closed"] {
        let first = format!("export XDG_CACHE_HOME=$PWD/{cache}");
        let words = format!("train --max-steps 1 --run-dir {cache}-run");
        let trained = unprivileged_after(&sandbox, &first, &words).succeeded();
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
        let refused = unprivileged_after(&sandbox, &first, words);
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        assert!(refused.stderr.contains("--data-dir DIR"), "{}", refused.stderr);
        assert!(!sandbox.path("other").exists());
    }
    allow(&sandbox, "closed");
}
