//! Temporary files and folders that do not outlive their process.
//!
//! Each is removed when its writer finishes or fails. A process about to exit calls [`remove_temporaries`]. The next
//! process that writes in the same folder removes what a killed one left: a live writer holds a lock on its temporary,
//! a dead one does not.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::system;

/// The prefix of their names; [`RANDOM`] letters and digits follow.
const PREFIX: &str = ".tmp-vit-";
const RANDOM: usize = 6;

/// A writer locks its temporary right after creating it, so an unlocked one of this age is abandoned.
const SURELY_LOCKED: Duration = Duration::from_secs(60);

/// This process's temporaries. Hold this lock to rename or remove them.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes this process's temporary files and folders, and blocks forever every thread that would write another or
/// rename one. Call it only right before exiting.
pub fn remove_temporaries() {
    let live = live();
    for path in &*live {
        remove(path);
    }
    // It stays locked.
    std::mem::forget(live);
}

/// A temporary file or folder, removed on drop unless it was renamed into place.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    /// Locked while open. `None` for a folder on systems that cannot open folders.
    file: Option<File>,
}

impl Temporary {
    /// An empty file in `folder`.
    pub(crate) fn file_in(folder: &Path) -> io::Result<Self> {
        remove_stale(folder, SystemTime::now());
        let mut live = live();
        let (file, path) =
            builder(0o666).tempfile_in(folder).map_err(system::without_path)?.keep()?;
        Ok(Self::locked(path, Some(file), &mut live))
    }

    /// An empty folder in `folder`.
    pub(crate) fn folder_in(folder: &Path) -> io::Result<Self> {
        remove_stale(folder, SystemTime::now());
        let mut live = live();
        let path = builder(0o777).tempdir_in(folder).map_err(system::without_path)?.keep();
        let file = File::open(&path).ok();
        Ok(Self::locked(path, file, &mut live))
    }

    fn locked(path: PathBuf, file: Option<File>, live: &mut BTreeSet<PathBuf>) -> Self {
        // On file systems without locks, temporaries of killed processes stay.
        let _ = file.as_ref().map(File::try_lock);
        live.insert(path.clone());
        Self { path, file }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file. A folder is an error.
    pub(crate) fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| ErrorKind::IsADirectory.into())
    }

    /// Renames it into place with `rename`, which receives its path. [`remove_temporaries`] never interrupts a rename.
    pub(crate) fn into_place(self, rename: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut live = live();
        rename(&self.path)?;
        live.remove(&self.path);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if live().remove(&self.path) {
            remove(&self.path);
        }
    }
}

/// tempfile makes private files, and the target would inherit that. This requests a new file's usual mode, from which
/// the system subtracts the umask.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// Removes a file or folder and ignores errors, because the caller reports why it is removed.
fn remove(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if !metadata.is_dir() {
        let _ = fs::remove_file(path);
        return;
    }
    // The umask may have removed even the owner's right to read it.
    #[cfg(unix)]
    let _ = fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700));
    // Another thread may be writing into it.
    for _ in 0..100 {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            _ => return,
        }
    }
}

/// Removes what killed processes left in a folder.
fn remove_stale(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    // This process creates and locks temporaries under this lock; the clock may make one look old.
    let _live = live();
    for entry in entries.flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) && is_stale(&entry, now) {
            remove(&entry.path());
        }
    }
}

/// Whether this is the name of a temporary of this crate.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Whether its writer is gone.
fn is_stale(entry: &fs::DirEntry, now: SystemTime) -> bool {
    let Ok(metadata) = entry.metadata() else { return false };
    let kind = metadata.file_type();
    let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
    if !(kind.is_file() || kind.is_dir()) || age.is_none_or(|age| age < SURELY_LOCKED) {
        return false;
    }
    // Network file systems lock only files that are open for writing.
    let opened = OpenOptions::new().read(true).write(kind.is_file()).open(entry.path());
    opened.is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn unrenamed_temporary_is_removed() {
        let above = tempfile::tempdir().unwrap();
        let folder = Temporary::folder_in(above.path()).unwrap();
        fs::write(folder.path().join("file"), "text").unwrap();
        let file = Temporary::file_in(above.path()).unwrap();
        assert_eq!(count(above.path()), 2);
        drop((folder, file));
        assert_eq!(count(above.path()), 0);
        let failed = Temporary::file_in(above.path()).unwrap();
        assert!(failed.into_place(|_| Err(io::Error::other("no"))).is_err());
        assert_eq!(count(above.path()), 0);
    }

    /// As under a umask that removes every right.
    #[cfg(unix)]
    #[test]
    fn folder_without_any_rights_is_removed() {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir().unwrap();
        let folder = Temporary::folder_in(above.path()).unwrap();
        fs::write(folder.path().join("file"), "text").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o000)).unwrap();
        drop(folder);
        assert_eq!(count(above.path()), 0);
    }

    #[test]
    fn next_writer_removes_only_abandoned_temporaries() {
        let above = tempfile::tempdir().unwrap();
        let path = |name: &str| above.path().join(name);
        let mut written = Temporary::file_in(above.path()).unwrap();
        written.file().unwrap().write_all(b"half").unwrap();
        let also_written = Temporary::folder_in(above.path()).unwrap();
        fs::write(path(".tmp-vit-Abc123"), "left").unwrap();
        fs::create_dir(path(".tmp-vit-dEf456")).unwrap();
        fs::write(path(".tmp-vit-dEf456/file"), "left").unwrap();
        let others = [".tmp-vit-notes", ".tmp-abcdef", "tmp-vit-abcdef", ".tmp-vit-abc-ef"];
        for other in others {
            fs::write(path(other), "another program's").unwrap();
        }
        let now = SystemTime::now();
        remove_stale(above.path(), now);
        assert!(path(".tmp-vit-Abc123").exists(), "it may have been made just now");
        remove_stale(above.path(), now + 2 * SURELY_LOCKED);
        assert!(!path(".tmp-vit-Abc123").exists() && !path(".tmp-vit-dEf456").exists());
        assert!(written.path().exists() && also_written.path().exists());
        for other in others {
            assert!(path(other).exists(), "{other}");
        }
    }
}
