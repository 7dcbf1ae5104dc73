//! What can go wrong with a file.

use std::io;
use std::path::{Path, PathBuf};

/// An operation on a file that failed.
///
/// The system's error is the source and not part of the message, so that a chain of causes
/// (`{:#}` of anyhow) says each thing once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb: `write`, `lock`, ...
        operation: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A path begins with `~` and leads to no home folder that is known.
    #[error("cannot expand {}: {expected}", path.display())]
    Home {
        /// The path.
        path: PathBuf,
        /// What to write instead.
        expected: String,
    },
    /// A file of a folder is not as it was written, or should not be there.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// What the folder's sums say.
        expected: String,
        /// What is there.
        got: String,
    },
}

impl Error {
    /// Whether a link, pipe, device or folder lies where a regular file was expected.
    #[must_use]
    pub fn is_not_regular(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput)
    }

    /// Names the operation and the path that a system error belongs to, for `map_err`.
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
