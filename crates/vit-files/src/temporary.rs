//! Temporary files and folders, of which none is to outlive the process that writes it.
//!
//! Each is removed when its writer is done or fails. A process that is about to end in the middle of something calls
//! [`remove_temporaries`]. What a killed process has left is removed by the next one that writes in the same folder: a
//! live writer holds a lock on its temporary, a dead one does not.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::system;

/// What their names begin with; then come as many letters and digits as [`RANDOM`] says.
const PREFIX: &str = ".tmp-vit-";
const RANDOM: usize = 6;

/// A writer locks its temporary right after it has made it; one as old as this has been locked, if anyone still writes it.
const SURELY_LOCKED: Duration = Duration::from_secs(60);

/// Those of this process. Who holds this may rename or remove them.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every temporary file and folder that this process is writing, and makes every thread wait for ever that would
/// write another or put one in its place: only for a process that ends right after it.
pub fn remove_temporaries() {
    let live = live();
    for path in &*live {
        remove(path);
    }
    // It stays locked.
    std::mem::forget(live);
}

/// A file or folder under a name of its own, removed when this is dropped unless it was put in its place.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    /// Locked as long as it is open. There is none of a folder where the system opens no folders.
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
        // Where there are no locks, what a killed process leaves is left.
        let _ = file.as_ref().map(File::try_lock);
        live.insert(path.clone());
        Self { path, file }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file; none of a folder.
    pub(crate) fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| ErrorKind::IsADirectory.into())
    }

    /// Puts it in its place: `rename`, which gets its path, is done or not begun when the process is ended by
    /// [`remove_temporaries`].
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

/// A temporary is private by default, which the target would inherit; this asks for what any new one gets, from which the
/// system takes the user's umask.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// Removes a file or folder as far as the system lets it: why this one is removed is what is told.
fn remove(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if !metadata.is_dir() {
        let _ = fs::remove_file(path);
        return;
    }
    // The umask may have taken away even the owner's right to look into it.
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

/// Removes what processes that were killed have left in a folder.
fn remove_stale(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    // Those of this process are made and locked under it; its clock may say that one is old.
    let _live = live();
    for entry in entries.flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) && is_stale(&entry, now) {
            remove(&entry.path());
        }
    }
}

/// Whether a file or folder of this name is a temporary one of this crate's.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Whether nobody writes it any more.
fn is_stale(entry: &fs::DirEntry, now: SystemTime) -> bool {
    let Ok(metadata) = entry.metadata() else { return false };
    let kind = metadata.file_type();
    let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
    if !(kind.is_file() || kind.is_dir()) || age.is_none_or(|age| age < SURELY_LOCKED) {
        return false;
    }
    // On network file systems only what is open for writing is locked.
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
    fn what_is_not_put_in_its_place_is_removed() {
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

    /// As under a umask that takes every right away.
    #[cfg(unix)]
    #[test]
    fn a_folder_without_any_right_is_removed() {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir().unwrap();
        let folder = Temporary::folder_in(above.path()).unwrap();
        fs::write(folder.path().join("file"), "text").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o000)).unwrap();
        drop(folder);
        assert_eq!(count(above.path()), 0);
    }

    #[test]
    fn the_next_writer_removes_what_dead_ones_left_and_nothing_else() {
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
