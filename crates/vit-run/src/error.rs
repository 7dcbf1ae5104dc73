//! What can be wrong with a run folder.

use std::path::PathBuf;

/// What is wrong with a run folder. Each variant names the path, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A run folder that would be written over.
    #[error("run folder {} exists already", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A run that another process is training.
    #[error("another process is training in {}", path.display())]
    InUse {
        /// The run's folder.
        path: PathBuf,
    },
    /// A link among the run's own files: what is written through it could lie anywhere.
    #[error("{}: expected a file or folder of this run, got a symbolic link", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A line of the metrics that is none.
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
    /// A file that cannot be read or written, or is not as it was written.
    #[error(transparent)]
    File(#[from] vit_files::Error),
}

impl Error {
    /// Whether bytes of a run were read and are not those that were written. Any other error says nothing about them: the
    /// next attempt may read them.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::File(vit_files::Error::Altered { .. }))
    }
}
