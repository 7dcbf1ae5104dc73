//! Atomic writes: after any interruption a file is whole or absent.
//!
//! The bytes go to a temporary file beside the target (a rename is atomic inside one file system
//! only), reach the disk, and take the target's name in one step; then the folder, which holds
//! that name, reaches the disk too. Without either sync a power cut can leave an empty file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::temporary::Temporary;
use crate::{Error, system};

/// Replaces the file at `path` with `bytes`, or leaves it as it was.
///
/// The folder must exist. The file gets the permissions of any new file.
///
/// # Errors
/// If a system call fails. No temporary file is left then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomically_with(path, |file| file.write_all(bytes))
}

/// Replaces the file at `path` with the output of `write`, or leaves it as it was.
///
/// The writer that `write` receives is buffered. Otherwise like [`write_atomically`].
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("squares.txt");
/// vit_files::write_atomically_with(&path, |file| {
///     (1..=3).try_for_each(|n| writeln!(file, "{}", n * n))
/// })?;
/// assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n4\n9\n");
/// # Ok::<(), vit_files::Error>(())
/// ```
///
/// # Errors
/// If `write` or a system call fails. No temporary file is left then.
pub fn write_atomically_with(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    put(path, write, system::rename)
}

/// Creates a file with these bytes. An existing file stays as it is.
///
/// # Errors
/// If a system call fails. No temporary file is left then. If the file exists, the source is
/// [`io::ErrorKind::AlreadyExists`].
pub fn create_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    put(path, |file| file.write_all(bytes), system::rename_to_new)
}

fn put(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    rename: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), Error> {
    let folder = folder_of(path);
    let mut temporary = Temporary::file_in(folder).map_err(Error::io("write", path))?;
    let written = temporary.file().and_then(|file| write_and_sync(file, write));
    written.map_err(Error::io("write", path))?;
    temporary.into_place(|from| rename(from, path)).map_err(Error::io("replace", path))?;
    system::sync_folder(folder).map_err(Error::io("sync", folder))
}

/// The folder that holds `path`; for a bare file name, the current one.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn write_and_sync(
    file: &mut File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffered = BufWriter::new(&mut *file);
    write(&mut buffered)?;
    // Dropping the buffer would swallow the error of its last write.
    buffered.flush()?;
    drop(buffered);
    system::sync_file(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::tempdir;

    use super::*;

    #[test]
    fn file_is_created_and_replaced() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("file");
        for bytes in [&b"first, longer"[..], b"second", b""] {
            write_atomically(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(names_in(folder.path()), ["file"]);
    }

    #[test]
    fn existing_file_is_not_created_again() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("file");
        create_atomically(&path, b"first").unwrap();
        let error = create_atomically(&path, b"second").unwrap_err();
        assert!(
            matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
        );
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names_in(folder.path()), ["file"]);
    }

    #[test]
    fn failed_write_keeps_the_old_file_only() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, b"old").unwrap();
        let error = write_atomically_with(&path, |file| {
            file.write_all(b"half of the n")?;
            Err(io::Error::other("the writer gave up"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}", path.display()));
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "the writer gave up");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["file"]);
    }

    #[test]
    fn irreplaceable_target_leaves_no_temporary() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a-folder");
        fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"bytes").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot replace {}", path.display()));
        assert_eq!(names_in(folder.path()), ["a-folder"]);
    }

    #[test]
    fn missing_folder_is_named() {
        let folder = tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = write_atomically(&missing.join("file"), b"bytes").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}/file", missing.display()));
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(!source.contains(".tmp-"), "{source}");
    }

    #[test]
    fn bare_file_name_is_in_the_current_folder() {
        assert_eq!(folder_of(Path::new("file")), Path::new("."));
        assert_eq!(folder_of(Path::new("runs/file")), Path::new("runs"));
    }

    #[cfg(unix)]
    #[test]
    fn permissions_follow_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempdir().unwrap();
        let mode = |name| folder.path().join(name).metadata().unwrap().permissions().mode();
        fs::write(folder.path().join("plain"), b"").unwrap();
        write_atomically(&folder.path().join("atomic"), b"").unwrap();
        assert_eq!(mode("atomic"), mode("plain"));
    }

    /// Without the first sync a power cut could leave a name without bytes, without the second the old name.
    #[test]
    fn bytes_are_synced_before_the_rename_and_the_name_before_the_return() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("file");
        let (_, calls) = system::calls_of(|| write_atomically(&path, b"bytes").unwrap());
        assert_eq!(calls, ["sync file", "rename to file", "sync folder"]);
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}
