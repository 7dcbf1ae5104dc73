//! A temporary folder for parsers that read by path.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a writable folder"))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).expect("a writable folder");
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).expect("a writable folder");
    }
}
