//! The run directory.

use std::fs::{self, FileType};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vit_files::FileLock;

use crate::Error;
use crate::names::{BEST, LAST, LOCK, METRICS, MODEL, NEW_LAST, OLD_CHECKPOINT};

/// Time to wait for the lock; a check whether a run is in use holds it for much less.
const MOMENT: Duration = Duration::from_millis(100);

/// A run directory, locked against other training processes.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: FileLock,
}

impl RunFolder {
    /// Creates a run directory, which must not exist, and its parents, with these files and an empty `metrics.jsonl`.
    /// Once the directory exists, so do its files.
    ///
    /// # Errors
    /// If it exists or cannot be created.
    pub fn create(path: &Path, files: &[(&str, &[u8])]) -> Result<Self, Error> {
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).map_err(vit_files::Error::io("write", above))?;
        }
        let mut files = files.to_vec();
        files.push((METRICS, b""));
        vit_files::create_folder_atomically(path, &files).map_err(|error| match error {
            vit_files::Error::Io { source, .. } if source.kind() == ErrorKind::AlreadyExists => {
                Error::Exists { path: path.to_owned() }
            }
            other => other.into(),
        })?;
        Self::locked(path)
    }

    /// Creates the first of `name-1`, `name-2`, ... in `above` that does not exist.
    ///
    /// # Errors
    /// If none can be created.
    pub fn create_numbered(
        above: &Path,
        name: &str,
        files: &[(&str, &[u8])],
    ) -> Result<Self, Error> {
        let mut number = 1_u64;
        loop {
            match Self::create(&above.join(format!("{name}-{number}")), files) {
                Err(Error::Exists { .. }) => number += 1,
                made => return made,
            }
        }
    }

    /// Links `last`, beside this directory, to it. Does nothing if links are not supported or another file has that
    /// name: no run needs the link.
    pub fn be_last(&self) {
        #[cfg(unix)]
        if let (Some(above), Some(name)) = (self.path.parent(), self.path.file_name()) {
            let last = above.join(LAST);
            let is_other = fs::symlink_metadata(&last).is_ok_and(|found| !found.is_symlink());
            let aside = above.join(format!("{NEW_LAST}-{}", std::process::id()));
            if !is_other
                && std::os::unix::fs::symlink(name, &aside).is_ok()
                && fs::rename(&aside, &last).is_err()
            {
                // Only this process created it.
                let _ = fs::remove_file(&aside);
            }
        }
    }

    /// Opens a run directory to resume the run; changes nothing but the lock.
    ///
    /// # Errors
    /// If it does not exist, another process is training in it, or an entry is a symbolic link, which could redirect
    /// writes to any place.
    pub fn open(path: &Path) -> Result<Self, Error> {
        for (entry, kind) in entries_of(path)? {
            if kind.is_symlink() && !is_temporary(&entry) {
                return Err(Error::Link { path: entry });
            }
        }
        Self::locked(path)
    }

    /// Removes temporary files of a process that died.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn remove_temporary(&self) -> Result<(), Error> {
        for (path, kind) in entries_of(&self.path)? {
            if is_temporary(&path) {
                // Links are removed like files: the link to the newest checkpoint has a temporary name at first.
                let removed =
                    if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(vit_files::Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn locked(path: &Path) -> Result<Self, Error> {
        let begun = Instant::now();
        loop {
            if let Some(lock) = FileLock::try_acquire(&path.join(LOCK))? {
                return Ok(Self { path: path.to_owned(), _lock: lock });
            }
            // A check whether the run is in use holds its lock briefly.
            if begun.elapsed() > MOMENT {
                return Err(Error::InUse { path: path.to_owned() });
            }
            thread::sleep(MOMENT / 20);
        }
    }

    /// Whether a process trains in this folder. `None` if unknown: the folder is not writable, or its file system has
    /// no locks.
    #[must_use]
    pub fn is_in_use(path: &Path) -> Option<bool> {
        let lock = path.join(LOCK);
        if fs::symlink_metadata(&lock).is_err() {
            return Some(false);
        }
        FileLock::try_acquire(&lock).ok().map(|lock| lock.is_none())
    }

    /// The directory's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the metrics, one JSON object a line.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// Path of the best epoch's weights by validation accuracy; exists only with a validation split.
    #[must_use]
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }

    /// Path of the last step's weights.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL)
    }
}

/// The entries of a folder.
fn entries_of(folder: &Path) -> Result<Vec<(PathBuf, FileType)>, Error> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))))
            .collect()
    });
    Ok(entries.map_err(vit_files::Error::io("read", folder))?)
}

/// Whether vit created this temporary file. Other programs' temporary files stay.
fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    vit_files::is_temporary(&name) || name.starts_with(OLD_CHECKPOINT) || name == NEW_LAST
}

/// The first of `name.extension`, `name-2.extension`, ... that does not exist, in a folder that only this process
/// writes to.
pub(crate) fn free_name(folder: &Path, name: &str, extension: &str) -> PathBuf {
    let names = (2_u64..).map(|number| format!("{name}-{number}{extension}"));
    let mut paths =
        std::iter::once(format!("{name}{extension}")).chain(names).map(|name| folder.join(name));
    let is_free = |path: &PathBuf| {
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    paths.find(is_free).expect("a folder has an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_directories_are_rejected_and_numbers_count_up() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("runs/a-1");
        let made = RunFolder::create(&path, &[("config.toml", b"x = 1")]).expect("a writable one");
        assert_eq!(made.path(), path);
        assert_eq!(fs::read(path.join("config.toml")).expect("the file"), b"x = 1");
        assert!(made.metrics().exists());
        let error = RunFolder::create(&path, &[]).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
        let next = RunFolder::create_numbered(&above.path().join("runs"), "a", &[]);
        let next = next.expect("a writable folder");
        assert!(next.path().ends_with("runs/a-2"));
        #[cfg(unix)]
        for run in [&made, &next] {
            run.be_last();
            let last = fs::read_link(above.path().join("runs/last")).expect("a link");
            assert_eq!(Some(last.as_os_str()), run.path().file_name());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_named_last_is_not_replaced() {
        let above = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(above.path().join("last")).expect("a writable folder");
        let run = RunFolder::create(&above.path().join("a"), &[]).expect("a writable folder");
        run.be_last();
        assert!(!above.path().join("last").is_symlink());
    }

    #[test]
    fn a_directory_has_one_holder_and_temporary_files_are_removed() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("run");
        let held = RunFolder::create(&path, &[]).expect("a writable folder");
        assert!(matches!(RunFolder::open(&path).unwrap_err(), Error::InUse { .. }));
        assert_eq!(RunFolder::is_in_use(&path), Some(true));
        drop(held);
        assert_eq!(RunFolder::is_in_use(&path), Some(false));
        fs::write(path.join(".tmp-vit-aB3xyz"), b"half").expect("a writable folder");
        fs::create_dir_all(path.join(".tmp-vit-step-000007/c")).expect("a writable folder");
        fs::create_dir_all(path.join(".tmp-work")).expect("a writable folder");
        #[cfg(unix)]
        std::os::unix::fs::symlink("step-000001", path.join(".tmp-vit-last")).expect("a link");
        let held = RunFolder::open(&path).expect("nobody holds it");
        assert!(path.join(".tmp-vit-step-000007/c").exists());
        held.remove_temporary().expect("a writable folder");
        for name in [".tmp-vit-aB3xyz", ".tmp-vit-step-000007", ".tmp-vit-last"] {
            assert!(fs::symlink_metadata(path.join(name)).is_err(), "{name}");
        }
        assert!(path.join(".tmp-work").exists(), "it is another program's");
        drop(held);
        assert!(matches!(RunFolder::open(&above.path().join("no")), Err(Error::File(_))));
    }

    #[test]
    fn checking_whether_a_run_is_in_use_does_not_prevent_resuming() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("run");
        drop(RunFolder::create(&path, &[]).expect("a writable folder"));
        let look = FileLock::try_acquire(&path.join(LOCK)).expect("a lock").expect("it is free");
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(MOMENT / 4);
                drop(look);
            });
            drop(RunFolder::open(&path).expect("it is free in a moment"));
        });
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_directory_is_rejected() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("run");
        drop(RunFolder::create(&path, &[]).expect("a writable folder"));
        std::os::unix::fs::symlink(above.path(), path.join("checkpoints")).expect("a link");
        let error = RunFolder::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("got a symbolic link"), "{error}");
    }
}
