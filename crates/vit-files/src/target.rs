//! What exists at an output path, following links.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use crate::atomic::folder_of;

/// Identifies a file under any name or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileId(#[cfg(unix)] (u64, u64), #[cfg(not(unix))] PathBuf);

impl FileId {
    /// Identifies what a path leads to, following links.
    ///
    /// # Errors
    /// If nothing exists there, or its metadata cannot be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        #[cfg(unix)]
        return Ok(Self::of_metadata(&fs::metadata(path)?));
        #[cfg(not(unix))]
        return Ok(Self(fs::canonicalize(path)?));
    }

    /// Identifies the file that the metadata belong to.
    #[cfg(unix)]
    #[must_use]
    pub fn of_metadata(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self((metadata.dev(), metadata.ino()))
    }
}

/// Target of a path, with links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing: a file can be created here. Folders above may be missing too.
    Absent(PathBuf),
    /// A regular file, with its real path.
    File(PathBuf),
    /// A folder, with its real path.
    Folder(PathBuf),
    /// A pipe, a device or a socket, by the given name, because there may be no other.
    Device(PathBuf),
}

/// Linux's limit of links in a row.
const MOST_LINKS: usize = 40;

impl Target {
    /// Follows a path's links, including one that leads to nothing.
    ///
    /// # Errors
    /// If a part of the path cannot be read, is not a folder, or the links form a loop.
    pub fn of(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Self::File(fs::canonicalize(path)?)),
            Ok(metadata) if metadata.is_dir() => Ok(Self::Folder(fs::canonicalize(path)?)),
            Ok(_) => Ok(Self::Device(path.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                absent(path, MOST_LINKS).map(Self::Absent)
            }
            Err(error) => Err(error),
        }
    }

    /// The real path, except for [`Target::Device`].
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Absent(path) | Self::File(path) | Self::Folder(path) | Self::Device(path) => path,
        }
    }

    /// Checks that this user may write it, or create it with the missing folders above.
    ///
    /// # Errors
    /// If not: the system's error.
    pub fn check_writable(&self) -> io::Result<()> {
        let mut written = match self {
            // Replacing one renames a file in its folder.
            Self::Absent(path) | Self::File(path) => folder_of(path),
            Self::Folder(path) | Self::Device(path) => path,
        };
        while !written.exists()
            && let Some(above) = written.parent()
        {
            written = above;
        }
        may_write(written)
    }
}

#[cfg(unix)]
fn may_write(path: &Path) -> io::Result<()> {
    use rustix::fs::Access;
    let search = if path.is_dir() { Access::EXEC_OK } else { Access::empty() };
    Ok(rustix::fs::access(path, Access::WRITE_OK | search)?)
}

#[cfg(not(unix))]
fn may_write(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// The real path that a file created here would have.
fn absent(path: &Path, links: usize) -> io::Result<PathBuf> {
    if let Ok(link) = fs::read_link(path) {
        let links = links.checked_sub(1).ok_or(ErrorKind::InvalidInput)?;
        return absent(&folder_of(path).join(link), links);
    }
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    Ok(real(folder_of(path))?.join(name))
}

/// The real path of a folder whose last parts may be missing.
fn real(folder: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match folder.components().next_back() {
                Some(Component::Normal(name)) => Ok(real(folder_of(folder))?.join(name)),
                _ => Err(error),
            }
        }
        real => real,
    }
}

/// Writes into a pipe or device without replacing it. Waits until a pipe has a reader.
///
/// # Errors
/// If it is no longer one, or a system call fails.
pub fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut device = File::options().write(true).open(path)?;
    if device.metadata()?.is_file() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "expected a pipe or device, got a file",
        ));
    }
    device.write_all(bytes)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_existing_and_missing_targets() {
        let above = tempfile::tempdir().unwrap();
        let above = fs::canonicalize(above.path()).unwrap();
        let path = |name: &str| above.join(name);
        fs::create_dir(path("folder")).unwrap();
        fs::write(path("file"), "").unwrap();
        symlink("../file", path("folder/to-file")).unwrap();
        symlink("folder/../absent", path("to-absent")).unwrap();
        symlink("to-absent", path("to-link")).unwrap();
        symlink("folder", path("to-folder")).unwrap();
        symlink("/dev/null", path("to-null")).unwrap();
        for (name, target) in [
            ("to-folder/to-file", Target::File(path("file"))),
            ("folder/../file", Target::File(path("file"))),
            ("to-link", Target::Absent(path("absent"))),
            ("to-folder/new", Target::Absent(path("folder/new"))),
            ("to-folder/new/and/newer", Target::Absent(path("folder/new/and/newer"))),
            ("to-folder", Target::Folder(path("folder"))),
            ("to-null", Target::Device(path("to-null"))),
        ] {
            assert_eq!(Target::of(&path(name)).unwrap(), target, "{name}");
        }
        symlink("circle", path("circle")).unwrap();
        for nowhere in ["circle", "file/below", "absent/../file"] {
            assert!(Target::of(&path(nowhere)).is_err(), "{nowhere}");
        }
    }

    #[test]
    fn file_has_one_id_under_every_name() {
        let above = tempfile::tempdir().unwrap();
        let path = |name: &str| above.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::write(path("other"), "").unwrap();
        fs::hard_link(path("file"), path("hard")).unwrap();
        symlink("file", path("soft")).unwrap();
        let id = FileId::of(&path("file")).unwrap();
        for same in ["hard", "soft"] {
            assert_eq!(FileId::of(&path(same)).unwrap(), id, "{same}");
        }
        assert_ne!(FileId::of(&path("other")).unwrap(), id);
    }
}
