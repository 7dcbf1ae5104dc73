//! Errors of a run directory.

use std::path::PathBuf;

/// An error of a run directory; the message names the path, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The run directory exists.
    #[error("run directory {} already exists", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process is training in the run directory.
    #[error("another process is training in {}", path.display())]
    InUse {
        /// The run directory.
        path: PathBuf,
    },
    /// A symbolic link inside the run directory, which could redirect writes to any place.
    #[error("{}: expected a file or folder of this run, got a symbolic link", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A malformed line in the metrics.
    #[error("{}:{line}: expected a line of metrics, got {got:?}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The line, or its beginning.
        got: String,
        /// The JSON error, with the column.
        source: serde_json::Error,
    },
    /// A file cannot be read or written, or is damaged.
    #[error(transparent)]
    File(#[from] vit_files::Error),
}

impl Error {
    /// Whether data of a run was read and is damaged. After any other error, the next attempt may succeed.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::File(vit_files::Error::Altered { .. }))
    }
}
