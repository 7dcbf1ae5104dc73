//! The folder that a run leaves behind.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::Error;

/// A folder of its own for one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes a folder that must not exist yet, and those above it.
    ///
    /// # Errors
    /// If it exists, or cannot be made.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let error = |path: &Path, source| Error::Write { path: path.to_owned(), source };
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).map_err(|source| error(above, source))?;
        }
        match fs::create_dir(path) {
            Ok(()) => Ok(Self { path: path.to_owned() }),
            Err(source) if source.kind() == ErrorKind::AlreadyExists => {
                Err(Error::RunFolderExists { path: path.to_owned() })
            }
            Err(source) => Err(error(path, source)),
        }
    }

    /// Makes the first of `name-1`, `name-2`, ... in `above` that does not exist.
    ///
    /// # Errors
    /// If none can be made.
    pub fn create_numbered(above: &Path, name: &str) -> Result<Self, Error> {
        let mut number = 1_u64;
        loop {
            match Self::create(&above.join(format!("{name}-{number}"))) {
                Err(Error::RunFolderExists { .. }) => number += 1,
                made => return made,
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration, enough to repeat the run.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The metrics, one object a line.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The weights of the epoch that was the best on the validation images, where there are some.
    #[must_use]
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// The weights of the last step.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_exists_is_refused_and_numbers_are_free() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("runs/a-1");
        assert_eq!(RunFolder::create(&path).expect("a writable folder").path(), path);
        let error = RunFolder::create(&path).unwrap_err();
        assert!(matches!(error, Error::RunFolderExists { .. }), "{error}");
        let next = RunFolder::create_numbered(&above.path().join("runs"), "a");
        assert!(next.expect("a writable folder").path().ends_with("runs/a-2"));
    }
}
