//! Errors of writing reports.

use std::path::PathBuf;

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written, or a folder not created.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The failed operation: `read`, `create` or `write`.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The run directory cannot be read.
    #[error(transparent)]
    Run(#[from] vit_run::Error),
    /// A figure cannot be written.
    #[error(transparent)]
    Files(#[from] vit_files::Error),
}
