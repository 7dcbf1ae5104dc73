//! Paths of the tests' files.

use std::path::{Path, PathBuf};

/// A file or folder under `tests/`. If `VIT_FIXTURES` is set, fixtures are there: GPU tests run on machines without the
/// sources.
pub(crate) fn test_file(name: impl AsRef<Path>) -> PathBuf {
    let name = name.as_ref();
    match (std::env::var_os("VIT_FIXTURES"), name.strip_prefix("fixtures")) {
        (Some(fixtures), Ok(name)) => Path::new(&fixtures).join(name),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(name),
    }
}
