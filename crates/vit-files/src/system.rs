//! System calls whose order protects against power loss.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Waits until a file's bytes are on the disk.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    #[cfg(test)]
    called("sync file".to_owned());
    file.sync_all()
}

/// Renames a file or folder atomically.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    called(format!("rename to {}", to.file_name().unwrap_or_default().display()));
    fs::rename(from, to)
}

/// Like [`rename`], but fails if the new name exists.
pub(crate) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Not every file system has hard links.
        Err(_) if fs::symlink_metadata(to).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => rename(from, to),
    }
}

/// Waits until the names in a folder are on the disk.
///
/// # Errors
/// If the system call fails.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(test)]
    called("sync folder".to_owned());
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a folder; the file is written anyway.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result,
    }
}

/// On other systems a folder cannot be opened as a file, and the rename itself is written through.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// The system's error without the path that tempfile adds.
pub(crate) fn without_path(error: io::Error) -> io::Error {
    let said = error.to_string();
    match said.split_once(" at path ") {
        Some((said, _)) => io::Error::new(error.kind(), said),
        None => error,
    }
}

#[cfg(test)]
pub(crate) use self::log::{called, calls_of};

/// Records a thread's calls, for tests of their order.
#[cfg(test)]
mod log {
    use std::cell::RefCell;

    thread_local! {
        static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn called(what: String) {
        CALLS.with_borrow_mut(|calls| calls.push(what));
    }

    /// The result of `work`, and the calls it makes on this thread.
    pub(crate) fn calls_of<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
        CALLS.take();
        let done = work();
        (done, CALLS.take())
    }
}
