//! Committed inputs.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Input {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// Folder of a parser's inputs of a kind.
pub(crate) fn folder(kind: &str, parser: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join(parser)
}

/// All inputs of a parser, sorted by name.
pub(crate) fn of(parser: &str) -> Vec<Input> {
    let mut paths = Vec::new();
    for kind in ["corpus", "regressions"] {
        // There may be no findings.
        let entries = fs::read_dir(folder(kind, parser)).into_iter().flatten();
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    paths.sort();
    paths.into_iter().map(|path| Input { bytes: fs::read(&path).unwrap(), path }).collect()
}
