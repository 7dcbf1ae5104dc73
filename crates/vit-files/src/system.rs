//! What has to happen in an order, for a power cut to do no harm.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Waits until a file's bytes are on the disk.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    #[cfg(test)]
    called("sync file".to_owned());
    file.sync_all()
}

/// Gives a file or folder another name, in one step.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    called(format!("rename to {}", to.file_name().unwrap_or_default().display()));
    fs::rename(from, to)
}

/// The same, unless something has the other name already.
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
/// If the system refuses.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(test)]
    called("sync folder".to_owned());
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a folder; the file stands all the same.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result,
    }
}

/// Elsewhere a folder cannot be opened as a file, and the rename itself is written through.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// The system's own error: tempfile adds the name of a file that nobody has asked for.
pub(crate) fn without_path(error: io::Error) -> io::Error {
    let said = error.to_string();
    match said.split_once(" at path ") {
        Some((said, _)) => io::Error::new(error.kind(), said),
        None => error,
    }
}

#[cfg(test)]
pub(crate) use self::log::{called, calls_of};

/// The calls of a thread, for tests of their order.
#[cfg(test)]
mod log {
    use std::cell::RefCell;

    thread_local! {
        static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn called(what: String) {
        CALLS.with_borrow_mut(|calls| calls.push(what));
    }

    /// What `work` gives, and the calls that it makes on this thread.
    pub(crate) fn calls_of<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
        CALLS.take();
        let done = work();
        (done, CALLS.take())
    }
}
