//! Why a run cannot be shown.

use std::path::PathBuf;

/// Why a run cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written, or a folder not be made.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried: `read`, `create` or `write`.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of the metrics is not such a line.
    #[error("{}:{line}: expected a line of metrics, got {got:?}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The line, or its beginning.
        got: String,
        /// What is wrong with it, and at which column.
        source: serde_json::Error,
    },
    /// A figure could not be written.
    #[error(transparent)]
    Files(#[from] vit_files::Error),
}
