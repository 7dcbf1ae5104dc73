//! Resuming never deletes a good checkpoint, whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
use super::compile;
use super::{checkpoints, copy, outcome, sandbox, uninterrupted};
use crate::idx_folder::IdxFolder;
use crate::support::Sandbox;

/// Every file below a folder with its content; links with their target.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            files.extend(files_below(&path));
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            files.insert(path, target.into_os_string().into_encoded_bytes());
        } else {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

/// A finished run in `whole` with its outcome. It has checkpoints after 32, 36 and 40 steps.
fn trained() -> (Sandbox, super::Trained) {
    let sandbox = sandbox();
    let whole = uninterrupted(&sandbox);
    (sandbox, whole)
}

#[test]
fn unlisted_files_in_a_checkpoint_are_ignored_and_kept() {
    let (sandbox, whole) = trained();
    let others = [".DS_Store", "Thumbs.db", ".nfs0001", "notes.txt", "@eaDir/x"];
    for name in others {
        sandbox.write(&format!("whole/checkpoints/last/{name}"), "of somebody else");
    }
    sandbox.run("verify whole --files-only").succeeded();
    let said = sandbox.run("train --resume whole").succeeded().stderr;
    assert!(said.contains("resuming from whole/checkpoints/step-000040"), "{said}");
    assert_eq!(outcome(&sandbox, "whole"), whole);
    assert_eq!(checkpoints(&sandbox, "whole"), [32, 36, 40]);
    for name in others {
        assert!(sandbox.path("whole/checkpoints/step-000040").join(name).exists(), "{name}");
    }
}

/// The newest checkpoint stands for its run. From an older one, the run would lose later ones.
#[test]
fn resuming_from_a_named_checkpoint_uses_it_or_fails() {
    let (sandbox, whole) = trained();
    copy(&sandbox.path("whole/checkpoints/step-000040"), &sandbox.path("copied"));
    fs::remove_dir_all(sandbox.path("whole/checkpoints/step-000040")).unwrap();
    // The state of `last` after a kill before it was updated.
    #[cfg(unix)]
    {
        fs::remove_file(sandbox.path("whole/checkpoints/last")).unwrap();
        let last = sandbox.path("whole/checkpoints/last");
        std::os::unix::fs::symlink("step-000036", last).unwrap();
    }
    let before = files_below(&sandbox.path(""));
    let init = |path: &str| format!("`vit train --init {path}/model.safetensors`");
    let older = "whole/checkpoints/step-000032";
    let refusal = sandbox.refuses(2, &format!("train --resume {older}"));
    assert!(refusal.hint.contains(&init(older)), "{refusal:?}");
    refusal.saying(&["expected the newest checkpoint of whole, step-000036"]);
    let refusal = sandbox.refuses(2, "train --resume copied");
    assert!(refusal.hint.contains(&init("copied")), "{refusal:?}");
    refusal.saying(&["expected a run directory, got a checkpoint outside of one: copied"]);
    let verified = sandbox.run("verify whole/checkpoints/step-000036 --files-only").stdout;
    assert!(verified.contains("ok   checkpoints/step-000032  "), "{verified}");
    assert_eq!(files_below(&sandbox.path("")), before);
    let newest = sandbox.path("whole/checkpoints/step-000036");
    let listed = files_below(&newest);
    #[cfg(unix)]
    let named = "whole/checkpoints/last";
    #[cfg(not(unix))]
    let named = "whole/checkpoints/step-000036";
    sandbox.run(&format!("train --resume {named}")).succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
    assert_eq!(files_below(&newest), listed);
    // From inside the directory.
    let mut within = sandbox.command("train --resume .");
    let within = within.current_dir(sandbox.path("whole/checkpoints/step-000040")).output();
    let within = within.unwrap();
    assert!(within.status.success(), "{}", String::from_utf8_lossy(&within.stderr));
}

/// It counts as a checkpoint even without its state file, and nothing may be trained in it.
#[test]
fn nothing_is_written_into_an_incomplete_checkpoint() {
    let (sandbox, _) = trained();
    for names in [&["SHA256SUMS"][..], &["SHA256SUMS", "model.safetensors"], &["state.json"]] {
        copy(&sandbox.path("whole"), &sandbox.path("run"));
        let newest = sandbox.path("run/checkpoints/step-000040");
        names.iter().for_each(|name| fs::remove_file(newest.join(name)).unwrap());
        let before = files_below(&newest);
        let said = sandbox.run("train --resume run/checkpoints/step-000040").succeeded().stderr;
        assert!(said.contains("resuming from run/checkpoints/step-000036"), "{said}");
        let aside = files_below(&sandbox.path("run/checkpoints/aside-step-000040"));
        assert_eq!(
            aside.into_values().collect::<Vec<_>>(),
            before.into_values().collect::<Vec<_>>()
        );
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

#[test]
fn temporary_files_of_other_programs_are_kept() {
    let (sandbox, whole) = trained();
    sandbox.write("whole/.tmp-work/thesis.txt", "of somebody else");
    sandbox.write("whole/.tmp-mynotes", "of somebody else");
    sandbox.write("whole/.tmp-vit-aB3xyz", "half of ours");
    sandbox.run("train --resume whole").succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
    assert!(sandbox.path("whole/.tmp-work/thesis.txt").exists());
    assert!(sandbox.path("whole/.tmp-mynotes").exists());
    assert!(!sandbox.path("whole/.tmp-vit-aB3xyz").exists());
}

#[test]
fn nothing_changes_before_all_checks_pass() {
    let (sandbox, _) = trained();
    sandbox.write("whole/checkpoints/step-000040/state.json", "{}");
    sandbox.write("whole/metrics.jsonl", "");
    sandbox.write("whole/.tmp-vit-aB3xyz", "");
    fs::remove_file(sandbox.path("whole/env.json")).unwrap();
    IdxFolder { train: 60, ..IdxFolder::default() }.write(&sandbox, "tiny");
    let before = files_below(&sandbox.path("whole"));
    let refused = sandbox.run("train --resume whole");
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("the dataset has changed"), "{}", refused.stderr);
    assert_eq!(files_below(&sandbox.path("whole")), before);
}

/// Its checkpoints are gone; starting again would overwrite the model.
#[test]
fn a_model_without_checkpoints_is_not_overwritten() {
    let (sandbox, _) = trained();
    fs::remove_dir_all(sandbox.path("whole/checkpoints")).unwrap();
    let before = files_below(&sandbox.path("whole"));
    let refusal = sandbox.refuses(4, "train --resume whole");
    assert!(refusal.hint.contains("--init whole/model.safetensors"), "{refusal:?}");
    assert_eq!(files_below(&sandbox.path("whole")), before);
}

/// A copy that followed links has the newest checkpoint twice.
#[cfg(unix)]
#[test]
fn a_folder_named_last_is_set_aside() {
    let (sandbox, whole) = trained();
    let last = sandbox.path("whole/checkpoints/last");
    fs::remove_file(&last).unwrap();
    fs::rename(sandbox.path("whole/checkpoints/step-000040"), &last).unwrap();
    let copied = files_below(&last).into_values().collect::<Vec<_>>();
    sandbox.run("train --resume whole").succeeded();
    assert_eq!(outcome(&sandbox, "whole"), whole);
    let aside = files_below(&sandbox.path("whole/checkpoints/aside-last"));
    assert_eq!(aside.into_values().collect::<Vec<_>>(), copied);
    assert!(last.is_symlink());
}

/// An interposer for file operations: call number `FAULT_AT` on a path below `FAULT_IN` fails with `FAULT_ERRNO`, and
/// creates the file `FAULT_MARK`.
#[cfg(target_os = "linux")]
const FAULTS: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int calls;

static int fails(const char *path) {
    const char *below = getenv("FAULT_IN");
    if (!below || !path || !strstr(path, below)) return 0;
    if (__sync_add_and_fetch(&calls, 1) != atoi(getenv("FAULT_AT"))) return 0;
    syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, getenv("FAULT_MARK"), O_CREAT | O_WRONLY, 0600));
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static int fails_at(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fails(path);
}

#define REAL(name, type, ...) type (*real)(__VA_ARGS__) = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define PATH(name, type, fail, params, args, ...) \
    type name params { REAL(name, type, __VA_ARGS__); return fails(path) ? fail : real args; }
#define FD(name, type, params, args, ...) \
    type name params { REAL(name, type, __VA_ARGS__); return fails_at(fd) ? -1 : real args; }

int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    REAL(open64, int, const char *, int, ...);
    return fails(path) ? -1 : real(path, flags, mode);
}
PATH(opendir, DIR *, NULL, (const char *path), (path), const char *)
PATH(mkdir, int, -1, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
PATH(rmdir, int, -1, (const char *path), (path), const char *)
PATH(unlink, int, -1, (const char *path), (path), const char *)
PATH(rename, int, -1, (const char *path, const char *to), (path, to), const char *, const char *)
PATH(symlink, int, -1, (const char *to, const char *path), (to, path), const char *, const char *)
FD(read, ssize_t, (int fd, void *bytes, size_t count), (fd, bytes, count), int, void *, size_t)
FD(write, ssize_t, (int fd, const void *bytes, size_t count), (fd, bytes, count), int, const void *, size_t)
FD(fsync, int, (int fd), (fd), int)
FD(ftruncate64, int, (int fd, off64_t length), (fd, length), int, off64_t)
FD(flock, int, (int fd, int how), (fd, how), int, int)
int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict out) {
    REAL(statx, int, int, const char *, int, unsigned, struct statx *);
    if (path && *path ? fails(path) : fails_at(dir)) return -1;
    return real(dir, path, flags, mask, out);
}
"#;

/// Temporary errors: too many open files, no memory, an unreachable server. They say nothing about the data on disk.
#[cfg(target_os = "linux")]
const PASSING: [i32; 5] = [5, 24, 12, 13, 116];

#[cfg(target_os = "linux")]
#[test]
fn a_failing_file_operation_loses_no_checkpoint() {
    let (sandbox, whole) = trained();
    compile(&sandbox, "faults", FAULTS);
    fs::remove_dir_all(sandbox.path("whole/checkpoints/step-000040")).unwrap();
    let kept = |run: &str| {
        let steps = [32, 36].map(|step| format!("{run}/checkpoints/step-{step:06}"));
        steps.map(|step| {
            let files = files_below(&sandbox.path(step)).into_iter();
            files
                .map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes))
                .collect::<Vec<_>>()
        })
    };
    let before = kept("whole");
    // Every nth call, starting from another one each time.
    let stride = super::times(17, 1);
    let mut failed = 0;
    for (round, at) in (1..).step_by(stride).enumerate() {
        copy(&sandbox.path("whole"), &sandbox.path("run"));
        let mut resume = sandbox.command("-q train --resume run --keep 100");
        resume.env("LD_PRELOAD", sandbox.path("faults.so"));
        resume.env("FAULT_IN", "run/").env("FAULT_MARK", sandbox.path("mark"));
        resume.env("FAULT_AT", at.to_string());
        resume.env("FAULT_ERRNO", PASSING[round % PASSING.len()].to_string());
        let output = resume.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let context = format!("call {at}: {said}");
        if fs::remove_file(sandbox.path("mark")).is_err() {
            assert!(output.status.success(), "{context}");
            break;
        }
        failed += 1;
        assert_eq!(kept("run"), before, "{context}");
        sandbox.run("-q train --resume run --keep 100").succeeded();
        assert_eq!(kept("run"), before, "{context}");
        assert_eq!(outcome(&sandbox, "run"), whole, "{context}");
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
    assert!(failed > 10, "{failed} calls were seen");
}
