//! Disks that are full or not to be written, and places that are not there.
#![cfg(unix)]

use std::process::{Command, Stdio};

use super::{assert_nothing_temporary, checkpoints, outcome, sandbox, uninterrupted};
use crate::support::{Outcome, Sandbox};

/// `vit` with a limit on the size of its files, in blocks of 512 bytes.
pub(super) fn limited(sandbox: &Sandbox, blocks: u32, words: &str) -> Outcome {
    let vit = sandbox.command(words);
    let mut shell = Command::new("sh");
    let line = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    shell.args(["-c", &line]).arg(vit.get_program()).args(vit.get_args());
    shell.current_dir(vit.get_current_dir().unwrap());
    for (name, value) in vit.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Outcome::of(&shell.output().unwrap())
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
    super::copy(&sandbox.path("whole"), &sandbox.path("second"));
    for later in [36, 40] {
        std::fs::remove_dir_all(sandbox.path(format!("second/checkpoints/step-{later:06}")))
            .unwrap();
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

/// A small file system of its own, where an ordinary user may mount one.
#[test]
fn a_full_disk_ends_the_run_and_leaves_the_last_checkpoint() {
    let sandbox = sandbox();
    std::fs::create_dir(sandbox.path("disk")).unwrap();
    // Room for a checkpoint or two.
    let mounted = "mount -t tmpfs -o size=1m tmpfs disk";
    let script = format!(
        "{mounted} || exit 77; \"$0\" -q train --config small.toml --save-every 3 --keep 100 --run-dir disk/run; \
         code=$?; ls -A disk/run; \"$0\" -q verify disk/run --files-only --json; exit $code"
    );
    let vit = sandbox.command("");
    let mut shell = Command::new("unshare");
    shell.args(["--map-root-user", "--mount", "sh", "-c", &script]).arg(vit.get_program());
    shell.current_dir(sandbox.path("")).stdin(Stdio::null());
    let Ok(output) = shell.output() else {
        eprintln!("skipped: there is no unshare");
        return;
    };
    let full = Outcome::of(&output);
    if matches!(full.code, Some(77 | 1)) {
        eprintln!("skipped: no file system can be mounted here: {}", full.stderr);
        return;
    }
    assert_eq!(full.code, Some(4), "{}", full.stderr);
    assert!(full.stderr.contains("No space left on device"), "{}", full.stderr);
    assert!(full.stderr.contains("disk/run/"), "{}", full.stderr);
    assert!(!full.stdout.contains(".tmp-"), "{}", full.stdout);
    assert!(full.stdout.contains("\"checkpoints/step-"), "{}", full.stdout);
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
