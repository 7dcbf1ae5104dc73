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
    /// The run folder cannot be read.
    #[error(transparent)]
    Run(#[from] vit_run::Error),
    /// A figure could not be written.
    #[error(transparent)]
    Files(#[from] vit_files::Error),
}
