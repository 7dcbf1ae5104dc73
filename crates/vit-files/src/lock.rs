//! Locks between threads and processes.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::{Error, open_own_file};

/// An exclusive advisory lock on a file, held until it is dropped or its process ends.
///
/// The file is created if missing, and its content is neither read nor changed. It is never deleted, because a waiting
/// process would then hold a lock on a file without a name. It must be a regular file: a link is not followed, and a
/// pipe is an error at once.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct FileLock {
    // Closing the file releases the lock.
    _file: File,
}

impl FileLock {
    /// Waits for the lock and takes it.
    ///
    /// # Errors
    /// If the file cannot be opened for writing, or its file system has no locks.
    pub fn acquire(path: &Path) -> Result<Self, Error> {
        let file = open(path)?;
        file.lock().map_err(Error::io("lock", path))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock if it is free; `None` if it is held.
    ///
    /// # Errors
    /// Like [`FileLock::acquire`].
    pub fn try_acquire(path: &Path) -> Result<Option<Self>, Error> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::io("lock", path)(source)),
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    open_own_file(path, File::options().write(true).create(true)).map_err(Error::io("open", path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use tempfile::tempdir;

    use super::*;

    #[test]
    fn lock_has_one_holder_until_dropped() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FileLock::try_acquire(&path).unwrap().unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn threads_take_turns() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("lock");
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _lock = FileLock::acquire(&path).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    thread::sleep(Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
    }

    #[test]
    fn lock_does_not_change_the_file() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("notes");
        fs::write(&path, "kept").unwrap();
        drop(FileLock::acquire(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }

    #[test]
    fn lock_in_a_missing_folder_names_its_path() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("missing").join("lock");
        let error = FileLock::acquire(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open {}", path.display()));
    }

    /// Creating a file through a link would let the link's author choose its location.
    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_locked() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("lock");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        for lock in [FileLock::acquire(&path).map(Some), FileLock::try_acquire(&path)] {
            let error = lock.unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, "expected a regular file, got a symbolic link");
        }
        assert!(!folder.path().join("elsewhere").exists());
        fs::remove_file(&path).unwrap();
        crate::open::tests::make_pipe(&path);
        assert!(FileLock::acquire(&path).is_err());
        assert!(FileLock::try_acquire(&path).is_err());
    }
}
