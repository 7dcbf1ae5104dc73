//! Errors of file operations.

use std::io;
use std::path::{Path, PathBuf};

/// A failed file operation.
///
/// The system's error is the source and not part of the message, so a chain of causes (anyhow's `{:#}`) states
/// everything once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The operation as a verb: `write`, `lock`, ...
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A path begins with `~`, but no home directory is known.
    #[error("cannot expand {}: {expected}", path.display())]
    Home {
        /// The path.
        path: PathBuf,
        /// What to write instead.
        expected: String,
    },
    /// A file of a folder was altered, is missing, or is not regular.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// The expected state, from the folder's sums.
        expected: String,
        /// The actual state.
        got: String,
    },
}

impl Error {
    /// Whether a link, pipe, device or folder was found instead of a regular file.
    #[must_use]
    pub fn is_not_regular(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput)
    }

    /// Adds the operation and the path to a system error, for `map_err`.
    ///
    /// ```
    /// use std::path::Path;
    /// use vit_files::Error;
    ///
    /// let path = Path::new("no/such/file");
    /// let error = std::fs::read(path).map_err(Error::io("read", path)).unwrap_err();
    /// assert_eq!(error.to_string(), "cannot read no/such/file");
    /// ```
    pub fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_path_buf(), source }
    }
}
